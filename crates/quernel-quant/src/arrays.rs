//! Arrays of .npz and .npy files. The files are untrusted: memory grows only with data that is there.

use crate::stream::Stream;
use npyz::{
    AutoSerialize, DType, Deserialize, NpyFile, NpyHeader, Order, WriterBuilder,
    half::f16,
    npz::{NpzArchive, NpzWriter, file_name_from_array_name},
};
use quernel_ir::{
    Code, Diagnostic, Scalar,
    plain::{Number, cast},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
    sync::Arc,
};

/// Elements of an array, row-major and little-endian.
#[derive(Clone, Debug)]
pub enum Data {
    /// In memory.
    Held(Vec<u8>),
    /// In the file.
    Streamed(Arc<Stream>),
}

/// An array in row-major order.
#[derive(Clone, Debug)]
pub struct Array {
    /// Extents; axis 0 counts samples.
    pub dims: Vec<usize>,
    /// Type of the elements; never a bf16, which numpy does not have.
    pub scalar: Scalar,
    /// Elements.
    pub data: Data,
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }
    /// The bytes of row `row` of `per` elements.
    pub fn row(&self, row: usize, per: usize) -> Result<Cow<'_, [u8]>, Diagnostic> {
        let width = per * self.scalar.bytes();
        Ok(match &self.data {
            Data::Held(bytes) => bytes[row * width..(row + 1) * width].into(),
            Data::Streamed(s) => s.row(row)?.into(),
        })
    }
    /// Element `i` as an integer, if the array holds integers in memory.
    pub fn integer(&self, i: usize) -> Option<i64> {
        let Data::Held(bytes) = &self.data else { return None };
        match Number::read(self.scalar, &bytes[i * self.scalar.bytes()..]) {
            Number::Int(v) => i64::try_from(v).ok(),
            Number::Real(_) => None,
        }
    }
}

/// More elements than any sample file should hold.
const MAX_ELEMENTS: u64 = 1 << 36;
/// Elements beyond which an array of several rows stays in its file.
const MAX_HELD: u64 = 1 << 24;
/// Bytes of the head of an array, which names its type and its extents.
const MAX_HEAD: usize = 1 << 16;
/// Brackets inside one another in a head; those of a type with named fields are four. The parser of heads takes time
/// exponential in them.
const MAX_NESTED: i32 = 4;

fn unreadable(file: &str, what: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::new(Code::SamplesUnreadable, what.to_string()).in_file(file)
}

/// Reads a .npz (arrays by name) or a .npy (one array with an empty name).
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>, Diagnostic> {
    let file = path.display().to_string();
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(&file, format_args!("cannot read the samples: {e}")))?;
    if !metadata.is_file() {
        return Err(unreadable(&file, "the samples are not a regular file"));
    }
    let mut arrays = BTreeMap::new();
    match path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).as_deref() {
        Some("npy") => {
            let reader = File::open(path).map(BufReader::new).map_err(|e| unreadable(&file, e))?;
            let npy = open(reader).map_err(|e| unreadable(&file, format_args!("not a .npy file: {e}")))?;
            arrays.insert(String::new(), array(npy, path, "").map_err(|e| unreadable(&file, e))?);
        }
        Some("npz") => {
            let mut archive = NpzArchive::open(path).map_err(|e| unreadable(&file, format_args!("not a .npz file, or damaged: {e}")))?;
            let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
            for name in names {
                let place = |d: Diagnostic| d.at(format!("array {name:?}"));
                let mut entry =
                    archive.zip_archive().by_name(&file_name_from_array_name(&name)).map_err(|e| place(unreadable(&file, e)))?;
                let npy = open(&mut entry).map_err(|e| place(unreadable(&file, e)))?;
                let found = array(npy, path, &name).map_err(|e| place(unreadable(&file, e)))?;
                if let Data::Held(_) = found.data {
                    ended(&mut entry).map_err(|e| place(unreadable(&file, e)))?;
                }
                arrays.insert(name.clone(), found);
            }
        }
        _ => return Err(unreadable(&file, "samples are .npz or .npy files").help("numpy.savez(path, input_name=array) writes one")),
    }
    Ok(arrays)
}

/// The end of an archive's member, where its checksum is compared.
fn ended(mut entry: impl Read) -> Result<(), String> {
    match entry.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("more bytes than its head says".into()),
        Err(e) => Err(format!("damaged: {e}")),
    }
}

/// Reads the head of an array, once it is known to be short and plain.
fn open<R: Read>(mut reader: R) -> io::Result<NpyFile<R>> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let invalid = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut head = Vec::new();
    // What is missing is the parser's error.
    let mut more = |head: &mut Vec<u8>, n: usize| reader.by_ref().take(n as u64).read_to_end(head);
    more(&mut head, MAGIC.len() + 2)?;
    if head.starts_with(MAGIC) {
        let (start, width) = (head.len(), if head.get(MAGIC.len()) == Some(&1) { 2 } else { 4 });
        more(&mut head, width)?;
        let length = head[start..].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        if length > MAX_HEAD {
            return invalid(format!("its head has {length} bytes; at most {MAX_HEAD} are read"));
        }
        let text = head.len();
        more(&mut head, length)?;
        let mut depth = 0;
        for byte in &head[text..] {
            depth += i32::from(b"([{".contains(byte)) - i32::from(b")]}".contains(byte));
            if depth > MAX_NESTED {
                return invalid("its head nests brackets".into());
            }
        }
    }
    Ok(NpyFile::with_header(NpyHeader::from_reader(&head[..])?, reader))
}

fn array<R: Read>(npy: NpyFile<R>, path: &Path, name: &str) -> Result<Array, String> {
    let count =
        npy.shape().iter().try_fold(1u64, |a, d| a.checked_mul(*d)).filter(|n| *n <= MAX_ELEMENTS).ok_or("the array is too large")?;
    let dims: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
    let dtype = npy.dtype();
    let scalar = scalar(&dtype).ok_or_else(|| format!("elements of type {} are not supported; use numbers or bool", dtype.descr()))?;
    if npy.order() == Order::Fortran && dims.len() > 1 {
        return Err("the array is in Fortran order; save numpy.ascontiguousarray(x)".into());
    }
    if count > MAX_HELD && dims.len() > 1 {
        let per: usize = dims[1..].iter().product();
        let stream = Stream::new(path.to_path_buf(), name.to_owned(), per);
        return Ok(Array { dims, scalar, data: Data::Streamed(Arc::new(stream)) });
    }
    let mut data = Vec::new();
    chunks(npy, count as usize, &mut |all| {
        data = all;
        false
    })?;
    if data.len() as u64 != count * scalar.bytes() as u64 {
        return Err(format!("{} elements instead of {count}", data.len() / scalar.bytes()));
    }
    Ok(Array { dims, scalar, data: Data::Held(data) })
}

/// Hands the bytes of an array to `take`, `per` elements at a time, until it says no.
pub fn rows(path: &Path, name: &str, per: usize, take: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<(), String> {
    if name.is_empty() {
        let reader = File::open(path).map(BufReader::new).map_err(|e| e.to_string())?;
        return chunks(open(reader).map_err(|e| e.to_string())?, per, take);
    }
    let mut archive = NpzArchive::open(path).map_err(|e| e.to_string())?;
    let entry = archive.zip_archive().by_name(&file_name_from_array_name(name)).map_err(|e| e.to_string())?;
    chunks(open(entry).map_err(|e| e.to_string())?, per, take)
}

/// An element type of files that inputs have, too.
trait Element: Deserialize + AutoSerialize {
    fn put(self, bytes: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($ty:ty)*) => { $(impl Element for $ty {
        fn put(self, bytes: &mut Vec<u8>) {
            bytes.extend_from_slice(&self.to_le_bytes());
        }
        fn get(bytes: &[u8]) -> Self {
            Self::from_le_bytes(bytes.try_into().expect("one element"))
        }
    })* };
}
elements! { f64 f32 f16 i64 i32 i16 i8 u64 u32 u16 u8 }

impl Element for bool {
    fn put(self, bytes: &mut Vec<u8>) {
        bytes.push(self.into());
    }
    fn get(bytes: &[u8]) -> Self {
        bytes[0] != 0
    }
}

/// Runs `$each!(type, scalar)` for every type.
macro_rules! each_type {
    ($each:ident) => {
        $each!(f64, F64);
        $each!(f32, F32);
        $each!(f16, F16);
        $each!(i64, I64);
        $each!(i32, I32);
        $each!(i16, I16);
        $each!(i8, I8);
        $each!(u64, U64);
        $each!(u32, U32);
        $each!(u16, U16);
        $each!(u8, U8);
        $each!(bool, Bool);
    };
}

/// The type of the elements; `None` for one that no input has.
fn scalar(dtype: &DType) -> Option<Scalar> {
    macro_rules! attempt {
        ($ty:ty, $scalar:ident) => {
            if <$ty as Deserialize>::reader(dtype).is_ok() {
                return Some(Scalar::$scalar);
            }
        };
    }
    each_type!(attempt);
    None
}

fn chunks<R: Read>(npy: NpyFile<R>, per: usize, take: &mut dyn FnMut(Vec<u8>) -> bool) -> Result<(), String> {
    let dtype = npy.dtype();
    macro_rules! attempt {
        ($ty:ty, $scalar:ident) => {
            if scalar(&dtype) == Some(Scalar::$scalar) {
                let reader = npy.data::<$ty>().map_err(|e| e.to_string())?;
                return split(reader, per, Scalar::$scalar.bytes(), take);
            }
        };
    }
    each_type!(attempt);
    Err(format!("elements of type {} are not supported", dtype.descr()))
}

/// The last chunk may be shorter.
fn split<T: Element>(
    elements: impl Iterator<Item = io::Result<T>>,
    per: usize,
    width: usize,
    take: &mut dyn FnMut(Vec<u8>) -> bool,
) -> Result<(), String> {
    let mut chunk = Vec::new();
    for x in elements {
        x.map_err(|e| format!("the array is damaged: {e}"))?.put(&mut chunk);
        if chunk.len() == per * width && !take(std::mem::take(&mut chunk)) {
            return Ok(());
        }
    }
    if !chunk.is_empty() {
        take(chunk);
    }
    Ok(())
}

/// An array to be written: its name, extents, and elements as bytes.
pub type Named = (String, Vec<usize>, Scalar, Vec<u8>);

/// A .npz in memory. The type bf16, which numpy does not have, becomes f32.
pub fn write(arrays: &[Named]) -> Result<Vec<u8>, Diagnostic> {
    let mut out = io::Cursor::new(Vec::new());
    let mut npz = NpzWriter::new(&mut out);
    for (name, dims, scalar, bytes) in arrays {
        let dims: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        if *scalar == Scalar::BF16 {
            put::<f32>(&mut npz, name, &dims, &cast(Scalar::BF16, Scalar::F32, bytes), 4)?;
        }
        macro_rules! attempt {
            ($ty:ty, $scalar:ident) => {
                if *scalar == Scalar::$scalar {
                    put::<$ty>(&mut npz, name, &dims, bytes, scalar.bytes())?;
                }
            };
        }
        each_type!(attempt);
    }
    drop(npz);
    Ok(out.into_inner())
}

fn put<T: Element>(
    npz: &mut NpzWriter<&mut io::Cursor<Vec<u8>>>,
    name: &str,
    dims: &[u64],
    bytes: &[u8],
    width: usize,
) -> Result<(), Diagnostic> {
    let fail = |e: io::Error| Diagnostic::bug(format!("writing a .npz in memory: {e}"));
    let mut array = npz.array(name, Default::default()).map_err(fail)?.default_dtype().shape(dims).begin_nd().map_err(fail)?;
    array.extend(bytes.chunks_exact(width).map(T::get)).map_err(fail)?;
    array.finish().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u8, length: &[u8], text: &str) -> Result<Vec<u64>, String> {
        let bytes = [b"\x93NUMPY", &[version, 0][..], length, text.as_bytes()].concat();
        open(&bytes[..]).map(|npy| npy.shape().to_vec()).map_err(|e| e.to_string())
    }

    #[test]
    fn heads_are_short_and_plain() {
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
        assert_eq!(head(1, &(plain.len() as u16).to_le_bytes(), plain), Ok(vec![2, 3]));
        assert_eq!(head(2, &(plain.len() as u32).to_le_bytes(), plain), Ok(vec![2, 3]));
        // Their parser would take 2^40 steps.
        let nested = format!("{{'shape': {}", "[".repeat(40));
        assert_eq!(head(1, &(nested.len() as u16).to_le_bytes(), &nested), Err("its head nests brackets".into()));
        assert!(head(2, &[0xff; 4], plain).is_err_and(|e| e.contains("its head has 4294967295 bytes")));
        assert!(head(1, &[0xff; 2], plain).is_err());
        assert!(head(9, &[0xff; 4], plain).is_err());
    }
}
