//! Arrays of .npz and .npy files. The files are untrusted: memory grows only with data that is there.

use crate::stream::Stream;
use npyz::{NpyFile, Order, npz::NpzArchive};
use quernel_ir::{Code, Diagnostic};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read},
    path::Path,
    sync::Arc,
};

/// Elements of an array, small types kept small.
#[derive(Clone, Debug)]
pub enum Data {
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// 64-bit integers; all wider integer types.
    I64(Vec<i64>),
    /// f32; all float types.
    F32(Vec<f32>),
    /// Any of these, in the file.
    Streamed(Arc<Stream>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::Streamed(s) => s.len(),
        }
    }
    /// Row `row` of `per` elements as f32.
    pub fn row(&self, row: usize, per: usize) -> Result<Vec<f32>, Diagnostic> {
        let part = row * per..(row + 1) * per;
        Ok(match self {
            Self::U8(v) => v[part].iter().map(|x| f32::from(*x)).collect(),
            Self::I8(v) => v[part].iter().map(|x| f32::from(*x)).collect(),
            Self::I64(v) => v[part].iter().map(|x| *x as f32).collect(),
            Self::F32(v) => v[part].to_vec(),
            Self::Streamed(s) => s.row(row)?,
        })
    }
    /// An element as an integer, if the array holds integers.
    pub fn integer(&self, i: usize) -> Option<i64> {
        match self {
            Self::U8(v) => Some(i64::from(v[i])),
            Self::I8(v) => Some(i64::from(v[i])),
            Self::I64(v) => Some(v[i]),
            Self::F32(_) | Self::Streamed(_) => None,
        }
    }
}

/// An array in row-major order.
#[derive(Clone, Debug)]
pub struct Array {
    /// Extents; axis 0 counts samples.
    pub dims: Vec<usize>,
    /// Elements.
    pub data: Data,
}

/// More elements than any sample file should hold.
const MAX_ELEMENTS: u64 = 1 << 36;
/// Elements beyond which an array of several rows stays in its file.
const MAX_HELD: u64 = 1 << 24;

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
            let npy = NpyFile::new(reader).map_err(|e| unreadable(&file, format_args!("not a .npy file: {e}")))?;
            arrays.insert(String::new(), array(npy, path, "").map_err(|e| unreadable(&file, e))?);
        }
        Some("npz") => {
            let mut archive = NpzArchive::open(path).map_err(|e| unreadable(&file, format_args!("not a .npz file, or damaged: {e}")))?;
            let names: Vec<String> = archive.array_names().map(str::to_owned).collect();
            for name in names {
                let place = |d: Diagnostic| d.at(format!("array {name:?}"));
                let npy = archive.by_name(&name).map_err(|e| place(unreadable(&file, e)))?;
                let Some(npy) = npy else { continue };
                arrays.insert(name.clone(), array(npy, path, &name).map_err(|e| place(unreadable(&file, e)))?);
            }
        }
        _ => return Err(unreadable(&file, "samples are .npz or .npy files").help("numpy.savez(path, input_name=array) writes one")),
    }
    Ok(arrays)
}

fn array<R: Read>(npy: NpyFile<R>, path: &Path, name: &str) -> Result<Array, String> {
    let count =
        npy.shape().iter().try_fold(1u64, |a, d| a.checked_mul(*d)).filter(|n| *n <= MAX_ELEMENTS).ok_or("the array is too large")?;
    let dims: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
    let fortran = npy.order() == Order::Fortran && dims.len() > 1;
    let dtype = npy.dtype().descr();
    if fortran {
        return Err("the array is in Fortran order; save numpy.ascontiguousarray(x)".into());
    }
    if count > MAX_HELD && dims.len() > 1 {
        let per: usize = dims[1..].iter().product();
        let stream = Stream::new(path.to_path_buf(), name.to_owned(), dims[0], per);
        return Ok(Array { dims, data: Data::Streamed(Arc::new(stream)) });
    }
    let data = typed(npy, count)?.ok_or_else(|| format!("elements of type {dtype} are not supported; use f32, or an integer type"))?;
    if data.len() as u64 != count {
        return Err(format!("{} elements instead of {count}", data.len()));
    }
    Ok(Array { dims, data })
}

/// Hands the elements of an array to `take`, in order, until it says no.
pub fn elements(path: &Path, name: &str, take: &mut dyn FnMut(f32) -> bool) -> Result<(), String> {
    if name.is_empty() {
        let reader = File::open(path).map(BufReader::new).map_err(|e| e.to_string())?;
        return each(NpyFile::new(reader).map_err(|e| e.to_string())?, take);
    }
    let mut archive = NpzArchive::open(path).map_err(|e| e.to_string())?;
    let npy = archive.by_name(name).map_err(|e| e.to_string())?.ok_or_else(|| format!("no array {name:?} any more"))?;
    each(npy, take)
}

fn each<R: Read>(npy: NpyFile<R>, take: &mut dyn FnMut(f32) -> bool) -> Result<(), String> {
    let dtype = npy.dtype().descr();
    macro_rules! attempt {
        ($npy:ident, $ty:ty, $convert:expr) => {
            let $npy = match $npy.try_data::<$ty>() {
                Ok(reader) => {
                    for x in reader {
                        if !take($convert(x.map_err(|e| format!("the array is damaged: {e}"))?)) {
                            break;
                        }
                    }
                    return Ok(());
                }
                Err(npy) => npy,
            };
        };
    }
    attempt!(npy, u8, f32::from);
    attempt!(npy, i8, f32::from);
    attempt!(npy, f32, |x: f32| x);
    attempt!(npy, f64, |x: f64| x as f32);
    attempt!(npy, i16, f32::from);
    attempt!(npy, u16, f32::from);
    attempt!(npy, i32, |x: i32| x as f32);
    attempt!(npy, u32, |x: u32| x as f32);
    attempt!(npy, i64, |x: i64| x as f32);
    attempt!(npy, bool, |x: bool| f32::from(u8::from(x)));
    let _ = npy;
    Err(format!("elements of type {dtype} are not supported; use f32, or an integer type"))
}

fn typed<R: Read>(npy: NpyFile<R>, count: u64) -> Result<Option<Data>, String> {
    macro_rules! attempt {
        ($npy:ident, $ty:ty, $variant:ident, $convert:expr) => {
            let $npy = match $npy.try_data::<$ty>() {
                Ok(reader) => {
                    let mut v = Vec::new();
                    for x in reader.take(count as usize) {
                        v.push($convert(x.map_err(|e| format!("the array is damaged: {e}"))?));
                    }
                    return Ok(Some(Data::$variant(v)));
                }
                Err(npy) => npy,
            };
        };
    }
    attempt!(npy, u8, U8, |x: u8| x);
    attempt!(npy, i8, I8, |x: i8| x);
    attempt!(npy, f32, F32, |x: f32| x);
    attempt!(npy, f64, F32, |x: f64| x as f32);
    attempt!(npy, i16, I64, |x: i16| i64::from(x));
    attempt!(npy, u16, I64, |x: u16| i64::from(x));
    attempt!(npy, i32, I64, |x: i32| i64::from(x));
    attempt!(npy, u32, I64, |x: u32| i64::from(x));
    attempt!(npy, i64, I64, |x: i64| x);
    attempt!(npy, bool, U8, |x: bool| u8::from(x));
    let _ = npy;
    Ok(None)
}

/// A .npz in memory: f32 arrays by name.
pub fn write(arrays: &[(String, Vec<usize>, Vec<f32>)]) -> Result<Vec<u8>, Diagnostic> {
    use npyz::{WriterBuilder, npz::NpzWriter};
    let fail = |e: std::io::Error| Diagnostic::bug(format!("writing a .npz in memory: {e}"));
    let mut out = std::io::Cursor::new(Vec::new());
    let mut npz = NpzWriter::new(&mut out);
    for (name, dims, data) in arrays {
        let dims: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        let mut array = npz.array(name, Default::default()).map_err(fail)?.default_dtype().shape(&dims).begin_nd().map_err(fail)?;
        array.extend(data.iter().copied()).map_err(fail)?;
        array.finish().map_err(fail)?;
    }
    drop(npz);
    Ok(out.into_inner())
}
