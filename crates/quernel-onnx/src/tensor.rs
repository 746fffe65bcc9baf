//! `TensorProto` to a constant tensor.

use crate::{
    Options,
    generated::{GraphProto, TensorProto, tensor_proto::DataType},
    limits,
    narrow::Narrow,
};
use quernel_ir::{Code, Diagnostic, Scalar, Storage, Tensor, TensorTy};
use std::{
    collections::BTreeSet,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path},
};

/// The scalar of an ONNX element type; `None` when there is none.
pub fn scalar(data_type: i32) -> Option<Scalar> {
    Some(match DataType::try_from(data_type).ok()? {
        DataType::Double => Scalar::F64,
        DataType::Float => Scalar::F32,
        DataType::Float16 => Scalar::F16,
        DataType::Bfloat16 => Scalar::BF16,
        DataType::Int64 => Scalar::I64,
        DataType::Int32 => Scalar::I32,
        DataType::Int16 => Scalar::I16,
        DataType::Int8 => Scalar::I8,
        DataType::Uint64 => Scalar::U64,
        DataType::Uint32 => Scalar::U32,
        DataType::Uint16 => Scalar::U16,
        DataType::Uint8 => Scalar::U8,
        DataType::Bool => Scalar::Bool,
        _ => return None,
    })
}

/// Integer storage of an element type; `None` for others.
pub fn integer_storage(data_type: i32) -> Option<Storage> {
    let (bits, signed) = match DataType::try_from(data_type).ok()? {
        DataType::Uint8 => (8, false),
        DataType::Int8 => (8, true),
        DataType::Uint16 => (16, false),
        DataType::Int16 => (16, true),
        DataType::Int32 => (32, true),
        DataType::Uint4 => (4, false),
        DataType::Int4 => (4, true),
        DataType::Uint2 => (2, false),
        DataType::Int2 => (2, true),
        _ => return None,
    };
    Storage::new(bits, signed)
}

/// The element type of a tensor, where the IR holds its elements in bytes.
pub fn narrow_type(proto: &TensorProto) -> Option<Narrow> {
    Narrow::of(proto.data_type.unwrap_or(0))
}

/// The name ONNX gives an element type.
pub fn type_name(data_type: i32) -> String {
    DataType::try_from(data_type).map_or_else(|_| format!("element type {data_type}"), |t| t.as_str_name().to_lowercase())
}

/// Checked dimensions of a declared shape.
pub fn dimensions(dims: &[i64]) -> Result<Vec<usize>, Diagnostic> {
    if dims.len() > limits::RANK {
        return Err(Diagnostic::new(Code::LimitExceeded, format!("a tensor has {} axes; the limit is {}", dims.len(), limits::RANK)));
    }
    let checked: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
    let checked = checked.ok_or_else(|| Diagnostic::new(Code::BadTensor, format!("dimensions {dims:?} have a negative extent")))?;
    count(&checked)?;
    Ok(checked)
}

/// Number of elements, within the limit.
pub fn count(dims: &[usize]) -> Result<usize, Diagnostic> {
    let too_large =
        || Diagnostic::new(Code::LimitExceeded, format!("a tensor of dimensions {dims:?} is larger than {} elements", limits::ELEMENTS));
    // Zero extents must not hide a product that overflows elsewhere.
    let bound = dims.iter().try_fold(1usize, |a, d| a.checked_mul((*d).max(1)));
    match bound {
        Some(n) if n <= limits::ELEMENTS => Ok(dims.iter().product()),
        _ => Err(too_large()),
    }
}

/// Whether the elements are within what the user allows, which may be fewer than [`count`] does.
pub fn within(dims: &[usize], options: &Options) -> Result<(), Diagnostic> {
    let (n, most) = (count(dims)?, options.limits.elements);
    if n <= most {
        return Ok(());
    }
    Err(Diagnostic::new(Code::LimitExceeded, format!("a tensor of dimensions {dims:?} is larger than {most} elements")))
}

/// Reads a tensor. Its bytes are checked against its dimensions before anything is allocated for them.
pub fn read(proto: &TensorProto, options: &Options) -> Result<Tensor, Diagnostic> {
    let bad = |message: String| Diagnostic::new(Code::BadTensor, message);
    let unsupported = |message: String| Diagnostic::new(Code::UnsupportedType, message);
    let dims = dimensions(&proto.dims)?;
    within(&dims, options)?;
    let n = count(&dims)?;
    let raw_type = proto.data_type.unwrap_or(0);
    let data_type = DataType::try_from(raw_type).map_err(|_| bad(format!("has the unknown element type {raw_type}")))?;
    if data_type == DataType::Undefined {
        return Err(bad("has no element type".into()));
    }
    if proto.segment.is_some() {
        return Err(unsupported("is stored in segments".into()));
    }
    let packed = Narrow::of(raw_type);
    let scalar = scalar(raw_type).or(packed.map(Narrow::scalar));
    let scalar = scalar.ok_or_else(|| unsupported(format!("has elements of type {}", type_name(raw_type))))?;
    // Two 4-bit elements share a byte, and four of 2 bits.
    let entries = packed.map_or(n, |p| n.div_ceil(8 / p.bits()));
    let size = entries * width(data_type);
    let filled = [
        (!proto.float_data.is_empty(), matches!(data_type, DataType::Float)),
        (
            !proto.int32_data.is_empty(),
            matches!(
                data_type,
                DataType::Int32
                    | DataType::Int16
                    | DataType::Int8
                    | DataType::Uint16
                    | DataType::Uint8
                    | DataType::Bool
                    | DataType::Float16
                    | DataType::Bfloat16
                    | DataType::Int4
                    | DataType::Uint4
                    | DataType::Int2
                    | DataType::Uint2
                    | DataType::Float8e4m3fn
                    | DataType::Float8e4m3fnuz
                    | DataType::Float8e5m2
                    | DataType::Float8e5m2fnuz
                    | DataType::Float8e8m0
                    | DataType::Float4e2m1
            ),
        ),
        (!proto.int64_data.is_empty(), matches!(data_type, DataType::Int64)),
        (!proto.double_data.is_empty(), matches!(data_type, DataType::Double)),
        (!proto.uint64_data.is_empty(), matches!(data_type, DataType::Uint32 | DataType::Uint64)),
        (!proto.string_data.is_empty(), false),
    ];
    if filled.iter().any(|(has, fits)| *has && !fits) {
        return Err(bad(format!("holds data of another type than its element type {}", type_name(raw_type))));
    }
    let typed = filled.iter().any(|f| f.0);
    let external = match proto.data_location.unwrap_or(0) {
        0 => !proto.external_data.is_empty(),
        1 => true,
        other => return Err(bad(format!("has the unknown data location {other}"))),
    };
    let sources = usize::from(typed) + usize::from(proto.raw_data.as_ref().is_some_and(|r| !r.is_empty())) + usize::from(external);
    if sources > 1 {
        return Err(bad("holds its data in more than one field".into()));
    }
    let expect = |got: usize, unit: &str, want: usize| {
        if got == want { Ok(()) } else { Err(bad(format!("holds {got} {unit}; its dimensions {dims:?} need {want}"))) }
    };
    let raw: Vec<u8> = if external {
        external_data(proto, size, options)?
    } else if typed {
        match data_type {
            DataType::Float => {
                expect(proto.float_data.len(), "elements", n)?;
                proto.float_data.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            DataType::Int64 => {
                expect(proto.int64_data.len(), "elements", n)?;
                proto.int64_data.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            DataType::Double => {
                expect(proto.double_data.len(), "elements", n)?;
                proto.double_data.iter().flat_map(|x| x.to_le_bytes()).collect()
            }
            DataType::Uint32 | DataType::Uint64 => {
                expect(proto.uint64_data.len(), "elements", n)?;
                narrow(proto.uint64_data.iter().map(|x| i128::from(*x)), data_type)?
            }
            _ => {
                expect(proto.int32_data.len(), "elements", entries)?;
                narrow(proto.int32_data.iter().map(|x| i128::from(*x)), data_type)?
            }
        }
    } else {
        let raw = proto.raw_data.as_deref().unwrap_or_default();
        expect(raw.len(), "bytes", size)?;
        raw.to_vec()
    };
    if data_type == DataType::Bool
        && let Some(b) = raw.iter().find(|b| **b > 1)
    {
        return Err(bad(format!("holds {b} as a bool")));
    }
    let bytes = packed.map_or_else(|| raw.clone(), |p| p.unpack(&raw, n));
    Tensor::new(TensorTy::new(dims, scalar), bytes).map_err(Diagnostic::bug)
}

/// Bytes of one stored element.
fn width(data_type: DataType) -> usize {
    match data_type {
        DataType::Double | DataType::Int64 | DataType::Uint64 => 8,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        _ => 1,
    }
}

/// Numbers of a wide field as bytes of the element type; a number outside the type is damage.
fn narrow(numbers: impl Iterator<Item = i128>, data_type: DataType) -> Result<Vec<u8>, Diagnostic> {
    let (lo, hi): (i128, i128) = match data_type {
        DataType::Int8 => (-128, 127),
        DataType::Uint8
        | DataType::Uint4
        | DataType::Uint2
        | DataType::Float4e2m1
        | DataType::Float8e4m3fn
        | DataType::Float8e4m3fnuz
        | DataType::Float8e5m2
        | DataType::Float8e5m2fnuz
        | DataType::Float8e8m0 => (0, 255),
        DataType::Int4 | DataType::Int2 => (-128, 255),
        DataType::Bool => (0, 1),
        DataType::Int16 => (-32768, 32767),
        DataType::Uint16 | DataType::Float16 | DataType::Bfloat16 => (0, 65535),
        DataType::Uint32 => (0, u32::MAX.into()),
        DataType::Uint64 => (0, u64::MAX.into()),
        _ => (i32::MIN.into(), i32::MAX.into()),
    };
    let width = width(data_type);
    let mut bytes = Vec::new();
    for x in numbers {
        if !(lo..=hi).contains(&x) {
            return Err(Diagnostic::new(Code::BadTensor, format!("holds {x}, which is no {}", data_type.as_str_name().to_lowercase())));
        }
        bytes.extend_from_slice(&x.to_le_bytes()[..width]);
    }
    Ok(bytes)
}

/// Files the tensors of a graph are stored in, as the graph names them; sorted.
pub fn external_files(graph: &GraphProto) -> Vec<String> {
    let mut files = BTreeSet::new();
    let mut graphs = vec![graph];
    while let Some(graph) = graphs.pop() {
        let attributes = || graph.node.iter().flat_map(|n| &n.attribute);
        graphs.extend(attributes().filter_map(|a| a.g.as_ref()));
        let entries = graph.initializer.iter().chain(attributes().filter_map(|a| a.t.as_ref())).flat_map(|t| &t.external_data);
        files.extend(entries.filter(|e| e.key.as_deref() == Some("location")).filter_map(|e| e.value.clone()));
    }
    files.into_iter().collect()
}

/// Names of a file. A second one may lie anywhere: the path does not tell.
#[cfg(unix)]
fn links(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
fn links(_: &std::fs::Metadata) -> u64 {
    1
}

/// Reads `length` bytes beside the model. Nothing outside its folder is opened.
fn external_data(proto: &TensorProto, length: usize, options: &Options) -> Result<Vec<u8>, Diagnostic> {
    let bad = |message: String| Diagnostic::new(Code::BadTensor, message);
    let field = |key: &str| {
        let mut found = proto.external_data.iter().filter(|e| e.key.as_deref() == Some(key)).map(|e| e.value.clone().unwrap_or_default());
        let first = found.next();
        if found.next().is_some() { Err(bad(format!("names `{key}` of its external data twice"))) } else { Ok(first) }
    };
    let number = |key: &str| -> Result<Option<u64>, Diagnostic> {
        field(key)?.map(|v| v.parse().map_err(|_| bad(format!("has the {key} {v:?} in external data")))).transpose()
    };
    let location = field("location")?.ok_or_else(|| bad("is stored outside the file, without a location".into()))?;
    let (offset, stated) = (number("offset")?.unwrap_or(0), number("length")?);
    if stated.is_some_and(|l| l != length as u64) {
        return Err(bad(format!("has {} bytes of external data; its dimensions need {length}", stated.unwrap_or(0))));
    }
    let folder =
        options.external.as_deref().ok_or_else(|| bad("is stored outside the file, and no folder was given to read from".into()))?;
    let relative = Path::new(&location);
    let plain =
        !location.is_empty() && !location.contains(['\\', '\0']) && relative.components().all(|c| matches!(c, Component::Normal(_)));
    let outside = || bad(format!("names external data {location:?}, which is not inside the folder of the model"));
    if !plain {
        return Err(outside());
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let path = folder.join(relative);
    let unreadable = |e: std::io::Error| Diagnostic::new(Code::FileNotFound, format!("cannot read external data {location:?}: {e}"));
    let (real, home) = (path.canonicalize().map_err(unreadable)?, folder.canonicalize().map_err(unreadable)?);
    if !real.starts_with(&home) {
        return Err(outside());
    }
    let metadata = real.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(bad(format!("names external data {location:?}, which is not a regular file")));
    }
    if links(&metadata) > 1 {
        return Err(bad(format!("names external data {location:?}, which is also a file elsewhere (a hard link)"))
            .help("copy it, so that the folder of the model has a file of its own"));
    }
    if offset.checked_add(length as u64).is_none_or(|end| end > metadata.len()) {
        return Err(bad(format!("needs bytes {offset}..{offset}+{length} of {location:?}, which has {}", metadata.len())));
    }
    let mut file = std::fs::File::open(&real).map_err(unreadable)?;
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::{AttributeProto, NodeProto, StringStringEntryProto};

    #[test]
    fn files_of_external_tensors_are_listed_once_and_sorted() {
        let at = |location: &str| {
            let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
            TensorProto { external_data: vec![entry("offset", "8"), entry("location", location)], ..TensorProto::default() }
        };
        let constant = AttributeProto { t: Some(at("a.bin")), ..AttributeProto::default() };
        let node = NodeProto { attribute: vec![constant], ..NodeProto::default() };
        let graph =
            GraphProto { initializer: vec![at("w.bin"), TensorProto::default(), at("w.bin")], node: vec![node], ..GraphProto::default() };
        assert_eq!(external_files(&graph), ["a.bin", "w.bin"]);
    }
}
