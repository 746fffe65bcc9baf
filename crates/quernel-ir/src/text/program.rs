//! Listing of a program. It prints only: a program is made by lowering and checked by running it.

use super::lex::{float, write_name, write_origin, write_quoted};
use crate::{
    arena::Id,
    op::{Op, PoolKind, Unary, WindowDim},
    program::{Base, ByteQuant, Conv, End, Image, Places, Program, Slot, Step, Strided, Strides, WeightLayout, What},
    tensor::fnv1a,
};
use std::fmt::{self, Write as _};

impl fmt::Display for Program {
    /// Ports, constants with size and content hash, then one step per line: `N what [how] (reads) -> (writes) {..}
    /// ; origin`. A slot is `base+0xOFFSET:BYTES`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::from("program ");
        write_name(&mut out, &self.name);
        let _ = writeln!(
            out,
            " {{\n  arena {} bytes (at least {}), constants {} bytes",
            self.arena_bytes,
            self.arena_lower_bound,
            self.constant_bytes()
        );
        for (kind, short, ports) in [("input", "in", &self.inputs), ("output", "out", &self.outputs)] {
            for (i, port) in ports.iter().enumerate() {
                let _ = write!(out, "  {kind} {short}{i}: {} ", port.ty);
                write_quoted(&mut out, &port.name);
                out.push('\n');
            }
        }
        for (_, blob) in self.blobs.iter() {
            out.push_str("  blob @");
            write_name(&mut out, &blob.name);
            let _ = writeln!(out, ": {} bytes #{:016x}", blob.bytes.len(), fnv1a(&blob.bytes));
        }
        for (i, step) in self.steps.iter().enumerate() {
            let _ = write!(out, "  {i} ");
            write_step(&mut out, self, step);
            out.push('\n');
        }
        out.push_str("}\n");
        f.write_str(&out)
    }
}

fn write_step(out: &mut String, p: &Program, step: &Step) {
    let _ = write!(out, "{} [{}] ", step.what.name(), step.how);
    slots(out, p, &step.reads);
    out.push_str(" -> ");
    slots(out, p, &step.writes);
    let mut details = Vec::new();
    describe(&mut details, &step.what);
    if !details.is_empty() {
        let _ = write!(out, " {{{}}}", details.join(", "));
    }
    if !step.origin.names().is_empty() {
        out.push_str("  ; ");
        write_origin(out, step.origin.names());
    }
}

fn slots(out: &mut String, p: &Program, slots: &[Slot]) {
    out.push('(');
    for (i, slot) in slots.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        match slot.base {
            Base::Arena => out.push_str("arena"),
            Base::Input(i) => {
                let _ = write!(out, "in{i}");
            }
            Base::Output(i) => {
                let _ = write!(out, "out{i}");
            }
            Base::Blob(b) => {
                out.push('@');
                match p.blobs.get(b) {
                    Some(blob) => write_name(out, &blob.name),
                    None => {
                        let _ = write!(out, "?{}", b.index());
                    }
                }
            }
        }
        let _ = write!(out, "+{:#x}:{}", slot.offset, slot.bytes);
    }
    out.push(')');
}

/// The parameters of a step, `name=value` each.
fn describe(out: &mut Vec<String>, what: &What) {
    match what {
        What::Quantize { count, to, width } => out.extend([format!("count={count}"), format!("to={}", integers(to, *width))]),
        What::Dequantize { count, from, width } => out.extend([format!("count={count}"), format!("from={}", integers(from, *width))]),
        What::Conv { conv: geometry, zero, signed, residual_signed, end }
        | What::ConvWords { conv: geometry, zero, signed, residual_signed, end } => {
            let width = if matches!(what, What::ConvWords { .. }) { 2 } else { 1 };
            conv(out, geometry);
            out.push(format!("zero={zero}:{}", stored(*signed, width)));
            if geometry.residual.is_some() {
                out.push(format!("residual_sign={}", stored(*residual_signed, width)));
            }
            out.push(sum_end(end, width));
        }
        What::ConvCodes { conv: geometry, bits, signed, end } => {
            conv(out, geometry);
            out.extend([format!("bits={bits}"), format!("x={}", sign(*signed)), sum_end(end, 1)]);
        }
        What::ConvBits { conv: geometry, end } => {
            conv(out, geometry);
            out.push(sum_end(end, 1));
        }
        What::PackBits { rows, k } => out.push(format!("{rows}x{k}")),
        What::Expand { count, bits } => out.extend([format!("count={count}"), format!("bits={bits}")]),
        What::ExpandFloat { panels, taps, group, bits } => {
            out.extend([format!("{panels}x{taps}"), format!("group={group}"), format!("bits={bits}")]);
        }
        What::ConvFloat { conv: geometry, lo, hi } => {
            conv(out, geometry);
            out.push(format!("end=f32{}", clip(*lo, *hi)));
        }
        What::Pool { kind, input, output, window: w, from, to } => {
            pool(out, *kind, input, output, w);
            out.extend([format!("from={}", bytes(from)), format!("to={}", bytes(to))]);
        }
        What::PoolFloat { kind, input, output, window: w } => pool(out, *kind, input, output, w),
        What::Lookup { count } => out.push(format!("count={count}")),
        What::UnaryFloat { op, count } | What::UnaryDouble { op, count } => out.extend([unary(*op), format!("count={count}")]),
        What::BinaryBytes { op, over, a, b, to } => {
            out.push(op.name().to_owned());
            strided(out, over);
            out.extend([format!("a={}", bytes(a)), format!("b={}", bytes(b)), format!("to={}", bytes(to))]);
        }
        What::BinaryFloat { op, over, lo, hi } => {
            out.push(op.name().to_owned());
            strided(out, over);
            out.push(format!("end=f32{}", clip(*lo, *hi)));
        }
        What::BinaryPlain { op, scalar, over } => {
            out.extend([op.name().to_owned(), scalar.to_string()]);
            strided(out, over);
        }
        What::Compare { op, scalar, over } => {
            out.extend([op.name().to_owned(), scalar.to_string()]);
            strided(out, over);
        }
        What::Select { width, over } => {
            out.push(format!("width={width}"));
            strided(out, over);
        }
        What::Cast { from, to, count } => out.extend([format!("{from} to {to}"), format!("count={count}")]),
        What::MatMulFloat { batch, m, k, n, a_batch, b_batch } => {
            out.extend([format!("{batch}x{m}x{k}x{n}"), format!("a_batch={a_batch}"), format!("b_batch={b_batch}")]);
        }
        What::PackPanels { over, center, rest, left, signed } => {
            strided(out, over);
            out.extend([format!("center={center}"), format!("rest={rest:?}"), format!("left={left}:{}", sign(*signed))]);
        }
        What::MatMulBytes { product: p, signed, end, largest } => {
            out.extend([format!("{}x{}x{}", p.m, p.k, p.n), format!("segments={}", p.segments), format!("rows={:?}", p.rows)]);
            strided(out, &p.over);
            out.extend([format!("a={}", sign(*signed)), sum_end(end, 1), format!("largest={largest}")]);
        }
        What::ReduceFloat { kind, outer, len, inner } => out.extend([kind.name().to_owned(), format!("{outer}x{len}x{inner}")]),
        What::SoftmaxFloat { outer, len, inner, log } => {
            out.push(format!("{outer}x{len}x{inner}"));
            out.extend(log.then(|| "log".to_owned()));
        }
        What::LayerNorm { rows, len, epsilon, rms, from, to } => {
            let kind = if *rms { "rms" } else { "mean" };
            out.extend([format!("{rows}x{len}"), kind.to_owned(), format!("epsilon={epsilon:?}")]);
            out.extend([format!("from={}", bytes(from)), format!("to={}", bytes(to))]);
        }
        What::SoftmaxBytes { outer, len, inner, from, to } => {
            out.extend([format!("{outer}x{len}x{inner}"), format!("from={}", bytes(from))]);
            out.push(to.map_or("to=f32".to_owned(), |to| format!("to={}", bytes(&to))));
        }
        What::Gather { width, places: p, over } => {
            out.push(format!("width={width}"));
            places(out, p);
            strided(out, over);
        }
        What::Scatter { width, places: p, over, reduce } => {
            out.push(reduce.map_or("replace".to_owned(), |(f, s)| format!("{} {}", f.name(), s.name())));
            out.push(format!("width={width}"));
            places(out, p);
            strided(out, over);
        }
        What::TopK { elem, outer, len, inner, k, smallest, last } => {
            out.extend([format!("{outer}x{len}x{inner}"), elem.name().to_owned(), format!("k={k}")]);
            out.extend(smallest.then(|| "smallest".to_owned()));
            out.extend(last.then(|| "last".to_owned()));
        }
        What::Reduce { kind, elem, outer, len, inner } => {
            out.extend([kind.name().to_owned(), elem.name().to_owned(), format!("{outer}x{len}x{inner}")]);
        }
        What::Cumulative { op, elem, outer, len, inner, exclusive, reverse } => {
            out.extend([op.name().to_owned(), elem.name().to_owned(), format!("{outer}x{len}x{inner}")]);
            out.extend(exclusive.then(|| "exclusive".to_owned()));
            out.extend(reverse.then(|| "reverse".to_owned()));
        }
        What::Move { width, over } => {
            out.push(format!("width={width}"));
            strided(out, over);
        }
        What::Fill { width, over, bits } => {
            out.extend([format!("width={width}"), format!("bits={bits:#x}")]);
            strided(out, over);
        }
    }
}

fn sum_end(end: &End, width: usize) -> String {
    match end {
        End::Requantize { zero, lo, hi, signed } => format!("end={}[{lo}:{hi}]:{zero}", stored(*signed, width)),
        End::Float { lo, hi } => format!("end=f32{}", clip(*lo, *hi)),
    }
}

fn conv(out: &mut Vec<String>, c: &Conv) {
    out.extend([image(&c.input), format!("to {}", image(&c.output))]);
    out.extend(c.residual.as_ref().map(|r| format!("residual {}", image(r))));
    window(out, &c.window);
    if c.groups != 1 {
        out.push(format!("groups={}", c.groups));
    }
    out.push(match c.layout {
        WeightLayout::Plain => "plain".to_owned(),
        WeightLayout::Depthwise => "depthwise".to_owned(),
        WeightLayout::Panels { contiguous, depth } => format!("panels(depth={depth}{})", if contiguous { ", contiguous" } else { "" }),
    });
}

fn pool(out: &mut Vec<String>, kind: PoolKind, input: &Image, output: &Image, w: &[WindowDim; 2]) {
    out.push(match kind {
        PoolKind::Max => "max".to_owned(),
        PoolKind::Average { include_pad } => format!("average{}", if include_pad { " include_pad" } else { "" }),
    });
    out.extend([image(input), format!("to {}", image(output))]);
    window(out, w);
}

fn window(out: &mut Vec<String>, w: &[WindowDim; 2]) {
    let pair = |part: fn(&WindowDim) -> usize| format!("{}x{}", part(&w[0]), part(&w[1]));
    out.push(format!("kernel={}", pair(|d| d.kernel)));
    if w.iter().any(|d| d.stride != 1) {
        out.push(format!("stride={}", pair(|d| d.stride)));
    }
    if w.iter().any(|d| d.dilation != 1) {
        out.push(format!("dilation={}", pair(|d| d.dilation)));
    }
    if w.iter().any(|d| d.before + d.after != 0) {
        out.push(format!("pad={:?}", [w[0].before, w[1].before, w[0].after, w[1].after]));
    }
}

/// Extents `NxHxWxC`, and where elements lie unless densely from the start.
fn image(i: &Image) -> String {
    let extents = format!("{}x{}x{}x{}", i.n, i.h, i.w, i.c);
    if *i == Image::dense(i.n, i.h, i.w, i.c) { extents } else { format!("{extents} at {}+[{}, {}, {}]", i.start, i.batch, i.row, i.pixel) }
}

/// `index[EXTENT step STEP, ..]`, and where the next coordinate lies if there are several.
fn places(out: &mut Vec<String>, p: &Places) {
    let axes: Vec<String> = p.axes.iter().map(|(extent, step)| format!("{extent} step {step}")).collect();
    let apart = if p.axes.len() > 1 { format!(" apart {}", p.apart) } else { String::new() };
    out.push(format!("{}[{}]{apart}", if p.wide { "i64" } else { "i32" }, axes.join(", ")));
}

fn strided(out: &mut Vec<String>, s: &Strided) {
    let operand = |o: &Strides| format!("{}+{:?}", o.start, o.steps);
    out.push(format!("over {}", crate::infer::show(&s.dims)));
    out.extend(s.operands.iter().map(operand));
}

fn bytes(q: &ByteQuant) -> String {
    integers(q, 1)
}

fn integers(q: &ByteQuant, width: usize) -> String {
    let mut scale = String::new();
    float(&mut scale, q.scale);
    format!("{}[{}:{}]:{scale}:{}", stored(q.signed, width), q.lo, q.hi, q.zero)
}

fn sign(signed: bool) -> &'static str {
    stored(signed, 1)
}

fn stored(signed: bool, width: usize) -> &'static str {
    match (signed, width) {
        (true, 1) => "i8",
        (false, 1) => "u8",
        (true, _) => "i16",
        (false, _) => "u16",
    }
}

fn clip(lo: f32, hi: f32) -> String {
    if (lo, hi) == (f32::NEG_INFINITY, f32::INFINITY) { String::new() } else { format!("[{lo:?}:{hi:?}]") }
}

fn unary(u: Unary) -> String {
    Op::Unary(u).to_string()
}
