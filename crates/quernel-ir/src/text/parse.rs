//! Text to graph.

use super::{
    Pool,
    attrs::{Context, Draft},
    data::read_data,
    lex::{Bad, Cursor, Read, origin_names},
    types::read_type,
};
use crate::{
    diag::{Code, Diagnostic},
    graph::{ConstData, Def, Graph, Origin, Value, ValueData},
};
use std::collections::BTreeMap;

/// Reads one graph. The result is well formed but not verified: [`crate::verify()`] says whether it is sound.
///
/// An error is a [`Code::BadText`] at `line L, column C`. A tensor has at most 2^31 elements and 64 axes; the
/// shorthands `splat`, `seed` and `{N x SCALE}` of a text stand for at most 2^28 bytes.
pub fn parse(text: &str) -> Result<Graph, Diagnostic> {
    parse_with(text, &Pool::new())
}

/// Like [`parse`], with the data that hashes stand for.
pub fn parse_with(text: &str, pool: &Pool) -> Result<Graph, Diagnostic> {
    // Ids are 32 bits wide, and each takes several characters.
    if u32::try_from(text.len()).is_err() {
        return Err(Diagnostic::new(Code::BadText, "the text has more than 2^32 bytes").at("line 1, column 1"));
    }
    let parser = Parser { c: Cursor::new(text), pool, g: Graph::default(), values: BTreeMap::new(), consts: BTreeMap::new() };
    parser.graph().map_err(|Bad { at, message, help }| {
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before[before.rfind('\n').map_or(0, |i| i + 1)..].chars().count() + 1;
        let d = Diagnostic::new(Code::BadText, message).at(format!("line {line}, column {column}"));
        match help {
            Some(help) => d.help(help),
            None => d,
        }
    })
}

struct Parser<'a> {
    c: Cursor<'a>,
    pool: &'a Pool,
    g: Graph,
    values: BTreeMap<&'a str, Value>,
    consts: BTreeMap<String, Value>,
}

impl<'a> Parser<'a> {
    fn graph(mut self) -> Read<Graph> {
        self.c.lines();
        if !self.c.keyword("graph") {
            return self.c.expected("`graph`");
        }
        self.g.name = self.c.name()?;
        self.inputs()?;
        self.c.expect('{')?;
        self.c.end()?;
        loop {
            self.c.lines();
            if self.c.peek() == Some('%') {
                self.node()?;
            } else if self.c.keyword("const") {
                self.constant()?;
            } else if self.c.keyword("return") {
                self.outputs()?;
                break;
            } else {
                return self.c.expected("`const`, `return` or a value");
            }
        }
        self.c.lines();
        self.c.expect('}')?;
        if self.c.done() { Ok(self.g) } else { self.c.expected("the end of the text") }
    }

    fn inputs(&mut self) -> Read<()> {
        let Self { c, pool, g, values, .. } = self;
        c.list('(', ')', |c| {
            let (at, id) = new_value(c)?;
            c.expect(':')?;
            let ty = read_type(c, pool)?;
            let v = g.input(annotation(c)?.unwrap_or_default(), ty);
            define(values, at, id, v)
        })
    }

    fn constant(&mut self) -> Read<()> {
        let at = self.c.here();
        self.c.expect('@')?;
        let name = self.c.name()?;
        if self.consts.contains_key(&name) {
            return Cursor::bad_at(at, format!("constant @{name} is defined twice"));
        }
        let value_name = annotation(&mut self.c)?.unwrap_or_else(|| name.clone());
        self.c.expect(':')?;
        let ty = read_type(&mut self.c, self.pool)?;
        self.c.expect('=')?;
        let tensor = read_data(&mut self.c, ty, self.pool)?;
        self.c.end()?;
        // Not `Graph::constant`: names must stay as they are, and are known to be unique.
        let ty = tensor.ty.clone();
        let c = self.g.consts.push(ConstData { name: name.clone(), tensor });
        let v = self.g.values.push(ValueData { ty, def: Def::Const(c), name: value_name });
        self.consts.insert(name, v);
        Ok(())
    }

    fn node(&mut self) -> Read<()> {
        let (at, id) = new_value(&mut self.c)?;
        if self.c.peek() == Some(',') {
            return self.c.bad("a node has one result");
        }
        self.c.expect('=')?;
        let mut draft = Draft::read(&mut self.c)?;
        let mut args = Vec::new();
        if matches!(self.c.peek(), Some('%' | '@')) {
            args.push(self.used()?);
            while self.c.eat(',') {
                args.push(self.used()?);
            }
        }
        draft.attrs(&mut self.c)?;
        self.c.expect(':')?;
        let ty = read_type(&mut self.c, self.pool)?;
        let name = annotation(&mut self.c)?.unwrap_or_default();
        let comment = self.c.end()?;
        let origin: Origin = comment.and_then(origin_names).unwrap_or_default().into_iter().collect();
        let types = args.iter().map(|&a| self.g.ty(a)).collect();
        let op = draft.finish(&Context { args: types, result: Some(&ty) })?;
        let v = self.g.push(op, &args, ty, origin);
        self.g.values[v].name = name;
        define(&mut self.values, at, id, v)
    }

    fn outputs(&mut self) -> Read<()> {
        if matches!(self.c.peek(), Some('%' | '@')) {
            loop {
                let v = self.used()?;
                let name = annotation(&mut self.c)?.unwrap_or_default();
                self.g.output(name, v);
                if !self.c.eat(',') {
                    break;
                }
            }
        }
        self.c.end()?;
        Ok(())
    }

    /// A value that is defined above.
    fn used(&mut self) -> Read<Value> {
        let at = self.c.here();
        if self.c.eat('@') {
            let name = self.c.name()?;
            return match self.consts.get(&name) {
                Some(v) => Ok(*v),
                None => Cursor::bad_at(at, format!("constant @{name} is not defined")),
            };
        }
        let (at, id) = new_value(&mut self.c)?;
        match self.values.get(id) {
            Some(v) => Ok(*v),
            None => Cursor::bad_at(at, format!("value %{id} is not defined above")),
        }
    }
}

/// `%7`, or any word after the `%`.
fn new_value<'a>(c: &mut Cursor<'a>) -> Read<(usize, &'a str)> {
    let at = c.here();
    if !c.eat('%') {
        return c.expected("a value");
    }
    let id = c.run(|ch| ch.is_ascii_alphanumeric() || ch == '_');
    if id.is_empty() { Cursor::bad_at(at, "expected a number or word after `%`") } else { Ok((at, id)) }
}

fn define<'a>(values: &mut BTreeMap<&'a str, Value>, at: usize, id: &'a str, v: Value) -> Read<()> {
    match values.insert(id, v) {
        Some(_) => Cursor::bad_at(at, format!("value %{id} is defined twice")),
        None => Ok(()),
    }
}

/// The ONNX name of a value, in quotes.
fn annotation(c: &mut Cursor<'_>) -> Read<Option<String>> {
    if c.peek() == Some('"') { c.quoted().map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_a_place() {
        let place = |text: &str| parse(text).expect_err("does not parse").location.place;
        assert_eq!(place("").as_deref(), Some("line 1, column 1"));
        assert_eq!(place("graph g(%0: 2xf31) {").as_deref(), Some("line 1, column 15"));
        // Columns count characters, not bytes.
        assert_eq!(place("graph g(%0: 2xf32 \"zwölf\" x").as_deref(), Some("line 1, column 27"));
        assert_eq!(place("graph g() {\n\n  return %1\n}").as_deref(), Some("line 3, column 10"));
    }
}
