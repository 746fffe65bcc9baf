//! Short ways to write messages, sound or not.

use quernel::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

pub const FLOAT: i32 = 1;
pub const UINT8: i32 = 2;
pub const INT8: i32 = 3;
pub const INT32: i32 = 6;
pub const INT64: i32 = 7;

/// An input, output or inner value with elements of a type.
pub fn typed(name: &str, dims: &[i64], elem: i32) -> ValueInfoProto {
    let dim = |d: &i64| tensor_shape_proto::Dimension { value: Some(tensor_shape_proto::dimension::Value::DimValue(*d)) };
    let tensor = type_proto::Tensor { elem_type: Some(elem), shape: Some(TensorShapeProto { dim: dims.iter().map(dim).collect() }) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

pub fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    typed(name, dims, FLOAT)
}

/// An output that leaves its shape to the compiler.
pub fn output(name: &str) -> ValueInfoProto {
    let tensor = type_proto::Tensor { elem_type: Some(FLOAT), shape: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect();
    NodeProto { op_type: Some(op.into()), input: names(inputs), output: names(outputs), attribute, ..NodeProto::default() }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind), ..AttributeProto::default() }
}

pub fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..attribute(name, 2) }
}

pub fn ints(name: &str, all: &[i64]) -> AttributeProto {
    AttributeProto { ints: all.to_vec(), ..attribute(name, 7) }
}

pub fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..attribute(name, 1) }
}

pub fn word(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(s.into()), ..attribute(name, 3) }
}

pub fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attribute(name, 5) }
}

pub fn held(name: &str, tensor: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(tensor), ..attribute(name, 4) }
}

/// A tensor whose bytes need not fit its dimensions.
pub fn raw(name: &str, elem: i32, dims: &[i64], bytes: Vec<u8>) -> TensorProto {
    TensorProto { name: Some(name.into()), data_type: Some(elem), dims: dims.to_vec(), raw_data: Some(bytes), ..TensorProto::default() }
}

/// A sound tensor of halves.
pub fn halves(name: &str, dims: &[i64]) -> TensorProto {
    let n: i64 = dims.iter().product();
    raw(name, FLOAT, dims, (0..n).flat_map(|_| 0.5f32.to_le_bytes()).collect())
}

pub fn floats(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    raw(name, FLOAT, dims, data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// A list of 64-bit integers.
pub fn longs(name: &str, data: &[i64]) -> TensorProto {
    raw(name, INT64, &[data.len() as i64], data.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// One 64-bit integer without axes.
pub fn long(name: &str, x: i64) -> TensorProto {
    raw(name, INT64, &[], x.to_le_bytes().to_vec())
}

pub fn bytes(name: &str, elem: i32, data: &[u8]) -> TensorProto {
    raw(name, elem, &[data.len() as i64], data.to_vec())
}

pub fn flag(name: &str, on: bool) -> TensorProto {
    raw(name, 9, &[], vec![u8::from(on)])
}

/// A tensor that lies in a file.
pub fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> TensorProto {
    let entry = |(k, v): &(&str, &str)| StringStringEntryProto { key: Some((*k).into()), value: Some((*v).into()) };
    TensorProto {
        name: Some(name.into()),
        data_type: Some(FLOAT),
        dims: dims.to_vec(),
        data_location: Some(1),
        external_data: entries.iter().map(entry).collect(),
        ..TensorProto::default()
    }
}

pub fn graph(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>, initializer: Vec<TensorProto>) -> GraphProto {
    GraphProto { name: Some("g".into()), node, input, output, initializer, ..GraphProto::default() }
}

fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

pub fn model_of(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17), opset("own", 1), opset("com.microsoft", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// Nodes from `x` to `y`, both floats; the shape of `y` is left to the compiler.
pub fn net(x: &[i64], nodes: Vec<NodeProto>, initializers: Vec<TensorProto>) -> ModelProto {
    model_of(graph(nodes, vec![value("x", x)], vec![output("y")], initializers))
}

/// A function of the domain `own`.
pub fn function(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<NodeProto>) -> FunctionProto {
    let names = |all: &[&str]| all.iter().map(|n| (*n).to_owned()).collect();
    FunctionProto {
        name: Some(name.into()),
        domain: Some("own".into()),
        input: names(inputs),
        output: names(outputs),
        node,
        opset_import: [("", 17), ("own", 1)].map(|(domain, version)| opset(domain, version)).to_vec(),
        ..FunctionProto::default()
    }
}

/// A call of it.
pub fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: Some("own".into()), ..node(name, inputs, outputs, vec![]) }
}
