//! The parts of an ONNX message that damage can reach.

use quernel::onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto::dimension};

/// A part of a message.
pub enum Part<'a> {
    /// A dimension, an integer attribute, a version.
    Int(&'a mut i64),
    /// An element type, a kind of attribute, a place of data.
    Kind(&'a mut i32),
    Float(&'a mut f32),
    Text(&'a mut String),
    Bytes(&'a mut Vec<u8>),
    Ints(&'a mut Vec<i64>),
    Floats(&'a mut Vec<f32>),
    Names(&'a mut Vec<String>),
    Nodes(&'a mut Vec<NodeProto>),
    Attributes(&'a mut Vec<AttributeProto>),
    Tensors(&'a mut Vec<TensorProto>),
    Values(&'a mut Vec<ValueInfoProto>),
}

/// Hands every part that is there to `see`, in the order of the file.
pub fn walk(model: &mut ModelProto, see: &mut dyn FnMut(Part<'_>)) {
    if let Some(version) = &mut model.ir_version {
        see(Part::Int(version));
    }
    for import in &mut model.opset_import {
        import.domain.as_mut().into_iter().for_each(|d| see(Part::Text(d)));
        import.version.as_mut().into_iter().for_each(|v| see(Part::Int(v)));
    }
    if let Some(g) = &mut model.graph {
        graph(g, see);
    }
    for f in &mut model.functions {
        f.name.as_mut().into_iter().for_each(|n| see(Part::Text(n)));
        for names in [&mut f.input, &mut f.output, &mut f.attribute] {
            see(Part::Names(names));
        }
        nodes(&mut f.node, see);
    }
}

fn graph(g: &mut GraphProto, see: &mut dyn FnMut(Part<'_>)) {
    nodes(&mut g.node, see);
    see(Part::Tensors(&mut g.initializer));
    g.initializer.iter_mut().for_each(|t| tensor(t, see));
    for values in [&mut g.input, &mut g.output, &mut g.value_info] {
        see(Part::Values(values));
        for value in values {
            value.name.as_mut().into_iter().for_each(|n| see(Part::Text(n)));
            let Some(ty) = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut()) else { continue };
            ty.elem_type.as_mut().into_iter().for_each(|e| see(Part::Kind(e)));
            for dim in ty.shape.iter_mut().flat_map(|s| &mut s.dim) {
                match &mut dim.value {
                    Some(dimension::Value::DimValue(d)) => see(Part::Int(d)),
                    Some(dimension::Value::DimParam(p)) => see(Part::Text(p)),
                    None => {}
                }
            }
        }
    }
}

fn nodes(all: &mut Vec<NodeProto>, see: &mut dyn FnMut(Part<'_>)) {
    see(Part::Nodes(all));
    for node in all {
        see(Part::Names(&mut node.input));
        see(Part::Names(&mut node.output));
        node.op_type.as_mut().into_iter().for_each(|t| see(Part::Text(t)));
        see(Part::Attributes(&mut node.attribute));
        for a in &mut node.attribute {
            a.name.as_mut().into_iter().for_each(|n| see(Part::Text(n)));
            a.r#type.as_mut().into_iter().for_each(|t| see(Part::Kind(t)));
            a.i.as_mut().into_iter().for_each(|i| see(Part::Int(i)));
            a.f.as_mut().into_iter().for_each(|f| see(Part::Float(f)));
            a.s.as_mut().into_iter().for_each(|s| see(Part::Bytes(s)));
            if !a.ints.is_empty() {
                see(Part::Ints(&mut a.ints));
                a.ints.iter_mut().for_each(|i| see(Part::Int(i)));
            }
            if !a.floats.is_empty() {
                see(Part::Floats(&mut a.floats));
            }
            a.t.as_mut().into_iter().for_each(|t| tensor(t, see));
            if let Some(g) = &mut a.g {
                graph(g, see);
            }
        }
    }
}

fn tensor(t: &mut TensorProto, see: &mut dyn FnMut(Part<'_>)) {
    see(Part::Ints(&mut t.dims));
    t.dims.iter_mut().for_each(|d| see(Part::Int(d)));
    t.data_type.as_mut().into_iter().for_each(|d| see(Part::Kind(d)));
    t.name.as_mut().into_iter().for_each(|n| see(Part::Text(n)));
    t.raw_data.as_mut().into_iter().for_each(|r| see(Part::Bytes(r)));
    if !t.float_data.is_empty() {
        see(Part::Floats(&mut t.float_data));
    }
    if !t.int64_data.is_empty() {
        see(Part::Ints(&mut t.int64_data));
    }
}
