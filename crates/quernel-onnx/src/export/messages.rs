//! Small ONNX messages.

use crate::generated::{
    AttributeProto, NodeProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto::AttributeType,
    tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use quernel_ir::{Scalar, Storage};

pub(super) fn node(op: &str, input: Vec<String>, result: &str) -> NodeProto {
    NodeProto { input, output: vec![result.into()], name: Some(result.into()), op_type: Some(op.into()), ..NodeProto::default() }
}

fn named(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind as i32), ..AttributeProto::default() }
}
pub(super) fn attribute(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i: Some(i), ..named(name, AttributeType::Int) }
}
pub(super) fn float_attribute(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f: Some(f), ..named(name, AttributeType::Float) }
}
pub(super) fn ints_attribute(name: &str, ints: impl IntoIterator<Item = usize>) -> AttributeProto {
    AttributeProto { ints: ints.into_iter().map(|i| i as i64).collect(), ..named(name, AttributeType::Ints) }
}
pub(super) fn text_attribute(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: Some(s.into()), ..named(name, AttributeType::String) }
}

pub(super) fn port(name: &str, kind: DataType, dims: &[usize]) -> ValueInfoProto {
    let extent = |d: &usize| tensor_shape_proto::Dimension { value: Some(tensor_shape_proto::dimension::Value::DimValue(*d as i64)) };
    let shape = TensorShapeProto { dim: dims.iter().map(extent).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(kind as i32), shape: Some(shape) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

pub(super) fn tensor(name: &str, kind: DataType, dims: &[usize], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|d| *d as i64).collect(),
        data_type: Some(kind as i32),
        name: Some(name.into()),
        raw_data: Some(raw),
        ..TensorProto::default()
    }
}

pub(super) fn scalar_type(s: Scalar) -> DataType {
    match s {
        Scalar::F64 => DataType::Double,
        Scalar::F32 => DataType::Float,
        Scalar::F16 => DataType::Float16,
        Scalar::BF16 => DataType::Bfloat16,
        Scalar::I64 => DataType::Int64,
        Scalar::I32 => DataType::Int32,
        Scalar::I16 => DataType::Int16,
        Scalar::I8 => DataType::Int8,
        Scalar::U64 => DataType::Uint64,
        Scalar::U32 => DataType::Uint32,
        Scalar::U16 => DataType::Uint16,
        Scalar::U8 => DataType::Uint8,
        Scalar::Bool => DataType::Bool,
    }
}

/// The narrowest element type that holds these integers.
pub(super) fn element_type(s: Storage) -> Option<DataType> {
    Some(match (s.bits(), s.signed()) {
        (1..=4, true) => DataType::Int4,
        (1..=4, false) => DataType::Uint4,
        (5..=8, true) => DataType::Int8,
        (5..=8, false) => DataType::Uint8,
        (9..=16, true) => DataType::Int16,
        (9..=16, false) => DataType::Uint16,
        (32, true) => DataType::Int32,
        _ => return None,
    })
}

/// Smallest and largest integer of an element type that [`element_type`] gives.
pub(super) fn range_of(kind: DataType) -> (i64, i64) {
    match kind {
        DataType::Int4 => (-8, 7),
        DataType::Uint4 => (0, 15),
        DataType::Int8 => (-128, 127),
        DataType::Uint8 => (0, 255),
        DataType::Int16 => (-32768, 32767),
        DataType::Uint16 => (0, 65535),
        _ => (i32::MIN.into(), i32::MAX.into()),
    }
}

/// Integers as raw data: two of 4 bits per byte, the first in the low half.
pub(super) fn packed(storage: Storage, codes: &[i64]) -> Vec<u8> {
    let low = |q: &i64| (*q & 15) as u8;
    match storage.bits() {
        1..=4 => codes.chunks(2).map(|pair| low(&pair[0]) | pair.get(1).map_or(0, low) << 4).collect(),
        5..=8 => codes.iter().map(|q| *q as u8).collect(),
        9..=16 => codes.iter().flat_map(|q| (*q as u16).to_le_bytes()).collect(),
        _ => codes.iter().flat_map(|q| (*q as u32).to_le_bytes()).collect(),
    }
}
