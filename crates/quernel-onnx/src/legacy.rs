//! Operators as they were before operator set 7, the first whose elementwise operators broadcast: their nodes are brought to the
//! form of that set.

use crate::{
    generated::{AttributeProto, NodeProto, tensor_proto::DataType},
    node::NodeCx,
};
use quernel_ir::{Diagnostic, Tensor};

/// The oldest operator set that needs no change.
pub const UNDERSTOOD: i64 = 7;

/// Elementwise operators with an attribute that says how the second operand repeats.
const BROADCASTING: [&str; 11] = ["Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor"];

/// Attributes that an operator had in old forms alone.
pub fn attributes(operator: &str) -> &'static [&'static str] {
    match operator {
        "GRU" | "LSTM" | "RNN" => &["output_sequence"],
        "BatchNormalization" => &["consumed_inputs", "is_test"],
        "Gemm" => &["broadcast"],
        "Reshape" => &["consumed_inputs", "shape"],
        o if BROADCASTING.contains(&o) => &["axis", "broadcast", "consumed_inputs"],
        // Which buffers may be reused says nothing about results.
        _ => &["consumed_inputs"],
    }
}

/// The node with the names, types and defaults that its attributes have since.
pub fn modern(node: &NodeProto, opset: i64) -> NodeProto {
    let mut node = node.clone();
    let operator = node.op_type.clone().unwrap_or_default();
    let has = |node: &NodeProto, name: &str| node.attribute.iter().any(|a| a.name.as_deref() == Some(name));
    let given = |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    for a in &mut node.attribute {
        match (operator.as_str(), a.name.as_deref()) {
            ("Pad", Some("paddings")) => a.name = Some("pads".into()),
            // The type was written in letters.
            ("Cast", Some("to")) if a.r#type == Some(3) => {
                let named = a.s.as_deref().and_then(|s| std::str::from_utf8(s).ok()).and_then(DataType::from_str_name);
                (a.r#type, a.i, a.s) = (Some(2), named.map(|t| t as i64), None);
            }
            _ => {}
        }
    }
    if operator == "Concat" && opset < 4 && !has(&node, "axis") {
        node.attribute.push(AttributeProto { r#type: Some(2), i: Some(1), ..given("axis") });
    }
    if operator == "Selu" && opset < 6 {
        for (name, value) in [("alpha", 1.6732), ("gamma", 1.0507)] {
            if !has(&node, name) {
                node.attribute.push(AttributeProto { r#type: Some(1), f: Some(value), ..given(name) });
            }
        }
    }
    node
}

/// Brings the operands to the shapes they have since.
pub fn adapt(cx: &mut NodeCx<'_>, operator: &str) -> Result<(), Diagnostic> {
    match operator {
        o if BROADCASTING.contains(&o) => repeated(cx),
        "PRelu" => per_channel(cx),
        // The shape was an attribute.
        "Reshape" => {
            if let Some(shape) = cx.ints("shape")?.filter(|_| cx.inputs.len() == 1) {
                let shape = cx.g.constant("shape", Tensor::i64([shape.len()], &shape));
                cx.inputs.push(Some(shape));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The second operand lies along the last axes of the first, or along those from `axis` on, where `broadcast` is set.
fn repeated(cx: &mut NodeCx<'_>) -> Result<(), Diagnostic> {
    let (Some(a), Some(b)) = (cx.optional(0), cx.optional(1)) else { return Ok(()) };
    let (x, y) = (cx.dims(a), cx.dims(b));
    if !cx.flag("broadcast", false)? {
        return if x == y { Ok(()) } else { Err(cx.misfit(format!("operands of {x:?} and {y:?}, and does not broadcast"))) };
    }
    let Some(axis) = cx.int("axis")?.filter(|_| !y.is_empty()) else { return Ok(()) };
    let axis = cx.axis(axis, x.len())?;
    let behind = x.len().checked_sub(axis + y.len());
    let behind = behind.ok_or_else(|| cx.misfit(format!("{y:?} does not lie in {x:?} from axis {axis} on")))?;
    let wide = [&y[..], &vec![1; behind]].concat();
    cx.inputs[1] = Some(cx.reshape(b, wide)?);
    Ok(())
}

/// Slopes belong to channels.
fn per_channel(cx: &mut NodeCx<'_>) -> Result<(), Diagnostic> {
    let (Some(x), Some(slope)) = (cx.optional(0), cx.optional(1)) else { return Ok(()) };
    let (x, own) = (cx.dims(x), cx.dims(slope));
    if x.len() > 2 && own.len() == 1 && own[0] > 1 {
        let wide = [&own[..], &vec![1; x.len() - 2]].concat();
        cx.inputs[1] = Some(cx.reshape(slope, wide)?);
    }
    Ok(())
}
