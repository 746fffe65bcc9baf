//! What an object says of itself: the JSON text behind `NAME_info`.

use crate::{ABI_VERSION, Options, target::Target};
use quernel_ir::{
    program::{ALIGN, Port, Program},
    ty::Elem,
};
use serde::Serialize;

/// In the order of the text. Field names are part of the calling convention.
#[derive(Serialize)]
struct Info<'a> {
    quernel: &'a str,
    abi: u32,
    name: &'a str,
    /// Hash of the model file as 16 hexadecimal digits; empty when there was no file.
    model: String,
    target: &'a str,
    cpu: &'a str,
    arena: usize,
    align: usize,
    stack: usize,
    inputs: Vec<Tensor<'a>>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    ty: String,
    dims: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero: Option<i64>,
}

impl<'a> Tensor<'a> {
    fn new(port: &'a Port) -> Self {
        let params = match &port.ty.elem {
            Elem::Quant(q) => q.tensor_params(),
            Elem::Scalar(_) => None,
        };
        let (scale, zero) = params.map_or((None, None), |(scale, zero)| (Some(scale), Some(i64::from(zero))));
        Self { name: &port.name, ty: element(port), dims: &port.ty.dims, scale, zero }
    }
}

/// `f32`, `u8`: the element as memory holds it.
pub fn element(port: &Port) -> String {
    match &port.ty.elem {
        Elem::Scalar(s) => s.name().to_owned(),
        Elem::Quant(q) => q.storage().to_string(),
    }
}

/// The text, without a terminating zero. Names from a hostile model are escaped; the text is ASCII.
pub fn info(p: &Program, target: &Target, options: &Options, stack: usize) -> String {
    let info = Info {
        quernel: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        name: &options.name,
        model: options.model_hash.map(|h| format!("{h:016x}")).unwrap_or_default(),
        target: target.triple(),
        cpu: target.cpu(),
        arena: p.arena_bytes,
        align: ALIGN,
        stack,
        inputs: p.inputs.iter().map(Tensor::new).collect(),
        outputs: p.outputs.iter().map(Tensor::new).collect(),
    };
    let text = serde_json::to_string(&info).unwrap_or_default();
    let mut ascii = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() || c == ' ' {
            ascii.push(c);
        } else {
            // Outside strings JSON is ASCII here, so this is inside one.
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}")));
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_json_of_ascii_whatever_names_hold() {
        let mut p = Program::default();
        let ty = quernel_ir::ty::TensorTy::f32([1, 2]);
        p.inputs.push(Port { name: "a\"\\\u{0}\n\u{e9}\u{1f600}*/".into(), ty });
        let options = Options { model_hash: Some(0xabc), ..Options::default() };
        let text = info(&p, &Target::default(), &options, 96);
        assert!(text.is_ascii() && !text.contains('\0'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["inputs"][0]["name"], p.inputs[0].name.as_str());
        assert_eq!(json["inputs"][0]["dims"], serde_json::json!([1, 2]));
        assert_eq!((json["model"].as_str(), json["stack"].as_u64()), (Some("0000000000000abc"), Some(96)));
    }
}
