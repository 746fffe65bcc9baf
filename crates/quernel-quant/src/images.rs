//! Folders of pictures as samples.
//!
//! A folder's files are taken in order of their names. In a folder of folders every subfolder is a class, and the labels
//! are their numbers in order of name. Pictures are decoded when they are asked for, so a large folder costs no memory.

use crate::samples::Bound;
use image::{ImageReader, Limits, RgbImage, imageops};
use quernel_ir::{Code, Diagnostic, Scalar, Tensor, TensorTy, infer, plain::cast};
use std::path::{Path, PathBuf};

/// How a picture comes to the size of the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fit {
    /// Scaled until it covers the input, then cut in the middle.
    #[default]
    Crop,
    /// Scaled to the input's size, whatever its proportions.
    Stretch,
}

/// How pixels become numbers: `(pixel / 255 - mean) / std` per channel. Inputs of bytes take the pixels themselves.
#[derive(Clone, PartialEq, Debug)]
pub struct ImageOptions {
    /// Subtracted, in the order red, green, blue.
    pub mean: [f32; 3],
    /// Divisor, in the order red, green, blue.
    pub std: [f32; 3],
    /// Channels are blue, green, red.
    pub bgr: bool,
    /// How the size is reached.
    pub fit: Fit,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self { mean: [0.0; 3], std: [1.0; 3], bgr: false, fit: Fit::Crop }
    }
}

/// Pictures of a folder and how they become the one input of a model.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    files: Vec<PathBuf>,
    /// Number of the subfolder of each, where there are subfolders.
    pub labels: Option<Vec<i64>>,
    options: ImageOptions,
    height: u32,
    width: u32,
    channels: usize,
    channels_last: bool,
    /// Type of the input: bytes or floats.
    scalar: Scalar,
}

/// Largest width or height that is decoded.
const MAX_EXTENT: u32 = 1 << 14;

impl Folder {
    pub fn open(path: &Path, inputs: &[Bound], options: &ImageOptions) -> Result<Self, Diagnostic> {
        let file = path.display().to_string();
        let [input] = inputs else {
            return Err(
                Diagnostic::new(Code::SampleName, format!("pictures feed one input, and the model has {}", inputs.len())).in_file(file)
            );
        };
        if !input.scalar.is_float() && input.scalar != Scalar::U8 {
            let message = format!("input {:?} takes {}; pictures are bytes or floats", input.name, input.scalar);
            return Err(Diagnostic::new(Code::SampleType, message).in_file(file));
        }
        let (channels_last, channels, height, width) = match input.dims[..] {
            [1, c @ (1 | 3), h, w] => (false, c, h, w),
            [1, h, w, c @ (1 | 3)] => (true, c, h, w),
            _ => {
                let message =
                    format!("input {:?} is {}, which is no picture: it takes 1 or 3 channels", input.name, infer::show(&input.dims));
                return Err(Diagnostic::new(Code::SampleShape, message).in_file(file));
            }
        };
        let extent = |n: usize| u32::try_from(n).ok().filter(|n| *n <= MAX_EXTENT);
        let (Some(height), Some(width)) = (extent(height), extent(width)) else {
            return Err(Diagnostic::new(Code::SampleShape, format!("pictures of {height}x{width} are too large")).in_file(file));
        };
        let entries = |folder: &Path| -> Result<Vec<PathBuf>, Diagnostic> {
            let unreadable = |e: std::io::Error| {
                Diagnostic::new(Code::SamplesUnreadable, format!("cannot read the folder: {e}")).in_file(folder.display().to_string())
            };
            let mut all = std::fs::read_dir(folder)
                .map_err(unreadable)?
                .map(|e| e.map(|e| e.path()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(unreadable)?;
            all.sort();
            Ok(all)
        };
        let all = entries(path)?;
        let mut files: Vec<PathBuf> = all.iter().filter(|p| is_picture(p)).cloned().collect();
        let mut labels = None;
        if files.is_empty() {
            let mut classes = Vec::new();
            for (class, folder) in all.iter().filter(|p| p.is_dir()).enumerate() {
                let pictures = entries(folder)?.into_iter().filter(|p| is_picture(p));
                for picture in pictures {
                    files.push(picture);
                    classes.push(class as i64);
                }
            }
            labels = Some(classes);
        }
        if files.is_empty() {
            return Err(Diagnostic::new(Code::NoSamples, "the folder holds no .png, .jpg or .jpeg").in_file(file));
        }
        Ok(Self { files, labels, options: options.clone(), height, width, channels, channels_last, scalar: input.scalar })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Picture `i` as the input.
    pub fn get(&self, i: usize) -> Result<Tensor, Diagnostic> {
        let path = &self.files[i];
        let unreadable = |e: String| {
            Diagnostic::new(Code::SamplesUnreadable, format!("cannot read the picture: {e}")).in_file(path.display().to_string())
        };
        let mut reader =
            ImageReader::open(path).map_err(|e| unreadable(e.to_string()))?.with_guessed_format().map_err(|e| unreadable(e.to_string()))?;
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(MAX_EXTENT), Some(MAX_EXTENT));
        reader.limits(limits);
        let picture = reader.decode().map_err(|e| unreadable(e.to_string()))?.into_rgb8();
        let picture = self.fit(picture);
        let o = &self.options;
        let (h, w, c) = (self.height as usize, self.width as usize, self.channels);
        let value = |y: usize, x: usize, channel: usize| {
            let p = picture.get_pixel(x as u32, y as u32).0;
            let bytes = self.scalar == Scalar::U8;
            let normal = |k: usize| if bytes { f32::from(p[k]) } else { (f32::from(p[k]) / 255.0 - o.mean[k]) / o.std[k] };
            // The weights of ITU-R BT.601, as everywhere.
            if c == 1 {
                0.299 * normal(0) + 0.587 * normal(1) + 0.114 * normal(2)
            } else {
                normal(if o.bgr { 2 - channel } else { channel })
            }
        };
        let (dims, data): ([usize; 4], Vec<f32>) = if self.channels_last {
            ([1, h, w, c], (0..h * w * c).map(|i| value(i / (w * c), i / c % w, i % c)).collect())
        } else {
            ([1, c, h, w], (0..h * w * c).map(|i| value(i / w % h, i % w, i / (h * w))).collect())
        };
        let round = |x: &f32| if self.scalar == Scalar::U8 { x.round_ties_even() } else { *x };
        let bytes: Vec<u8> = data.iter().flat_map(|x| round(x).to_le_bytes()).collect();
        Tensor::new(TensorTy::new(dims, self.scalar), cast(Scalar::F32, self.scalar, &bytes)).map_err(Diagnostic::bug)
    }

    fn fit(&self, picture: RgbImage) -> RgbImage {
        let (w, h) = picture.dimensions();
        if (w, h) == (self.width, self.height) || w == 0 || h == 0 {
            return picture;
        }
        let filter = imageops::FilterType::Triangle;
        if self.options.fit == Fit::Stretch {
            return imageops::resize(&picture, self.width, self.height, filter);
        }
        let scale = (f64::from(self.width) / f64::from(w)).max(f64::from(self.height) / f64::from(h));
        let scaled = |n: u32, least: u32| ((f64::from(n) * scale).round() as u32).max(least);
        let (sw, sh) = (scaled(w, self.width), scaled(h, self.height));
        let large = imageops::resize(&picture, sw, sh, filter);
        imageops::crop_imm(&large, (sw - self.width) / 2, (sh - self.height) / 2, self.width, self.height).to_image()
    }
}

fn is_picture(path: &Path) -> bool {
    let known = |e: &std::ffi::OsStr| ["png", "jpg", "jpeg"].iter().any(|k| e.eq_ignore_ascii_case(k));
    path.is_file() && path.extension().is_some_and(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SampleOptions, Samples};
    use image::Rgb;

    fn save(folder: &Path, name: &str, w: u32, h: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) {
        RgbImage::from_fn(w, h, |x, y| Rgb(pixel(x, y))).save(folder.join(name)).expect("written");
    }

    fn input(dims: &[usize]) -> Vec<Bound> {
        vec![Bound { name: "x".into(), dims: dims.to_vec(), scalar: Scalar::F32 }]
    }

    #[test]
    fn pixels_channels_and_order() {
        let folder = tempfile::tempdir().expect("a folder");
        save(folder.path(), "b.png", 2, 2, |x, y| [(10 * x) as u8, (10 * y) as u8, 255]);
        save(folder.path(), "a.png", 2, 2, |_, _| [255, 0, 0]);
        let open = |dims: &[usize], images: ImageOptions| {
            Samples::open_with(folder.path(), &input(dims), &SampleOptions { images, ..SampleOptions::default() }).expect("opens")
        };
        let data = |s: &Samples, i: usize| s.get(i).expect("a picture")[0].to_f32().expect("f32");
        let first = open(&[1, 3, 2, 2], ImageOptions::default());
        assert_eq!(first.len(), 2);
        assert_eq!(data(&first, 0), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let ten = 10.0 / 255.0;
        assert_eq!(data(&first, 1), [0.0, ten, 0.0, ten, 0.0, 0.0, ten, ten, 1.0, 1.0, 1.0, 1.0]);
        let last = open(&[1, 2, 2, 3], ImageOptions { bgr: true, mean: [0.5; 3], std: [0.5; 3], ..ImageOptions::default() });
        assert_eq!(data(&last, 0)[..3], [-1.0, -1.0, 1.0]);
        let bytes = [Bound { scalar: Scalar::U8, ..input(&[1, 3, 2, 2]).remove(0) }];
        let s = Samples::open(folder.path(), &bytes).expect("opens");
        assert_eq!(s.get(1).expect("a picture")[0].bytes(), [0, 10, 0, 10, 0, 0, 10, 10, 255, 255, 255, 255]);
        let grey = data(&open(&[1, 1, 2, 2], ImageOptions::default()), 0);
        assert!((grey[0] - 0.299).abs() < 1e-6);
    }

    #[test]
    fn sizes_are_reached_by_crop_or_stretch() {
        let folder = tempfile::tempdir().expect("a folder");
        // Left third black, middle third white, right third black.
        save(folder.path(), "a.png", 12, 4, |x, _| if (4..8).contains(&x) { [255; 3] } else { [0; 3] });
        let mean = |fit| {
            let images = ImageOptions { fit, ..ImageOptions::default() };
            let s = Samples::open_with(folder.path(), &input(&[1, 3, 4, 4]), &SampleOptions { images, ..SampleOptions::default() });
            let x = s.expect("opens").get(0).expect("a picture")[0].to_f32().expect("f32");
            x.iter().sum::<f32>() / x.len() as f32
        };
        assert_eq!(mean(Fit::Crop), 1.0);
        assert!((mean(Fit::Stretch) - 1.0 / 3.0).abs() < 0.1);
    }

    #[test]
    fn subfolders_are_classes() {
        let folder = tempfile::tempdir().expect("a folder");
        for class in ["cat", "dog"] {
            std::fs::create_dir(folder.path().join(class)).expect("made");
            save(&folder.path().join(class), "1.jpg", 3, 3, |_, _| [9; 3]);
        }
        save(&folder.path().join("dog"), "2.png", 3, 3, |_, _| [9; 3]);
        let s = Samples::open(folder.path(), &input(&[1, 3, 3, 3])).expect("opens");
        assert_eq!(s.labels(), Some(vec![0, 1, 1]));
        assert_eq!(s.slice(1..3).labels(), Some(vec![1, 1]));
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let code = |dims: &[usize]| Samples::open(folder.path(), &input(dims)).err().map(|e| e[0].code);
        assert_eq!(code(&[1, 3, 3, 3]), Some(Code::NoSamples));
        std::fs::write(folder.path().join("a.png"), b"not a picture").expect("written");
        assert_eq!(code(&[1, 10]), Some(Code::SampleShape));
        let broken = Samples::open(folder.path(), &input(&[1, 3, 3, 3])).expect("opens").get(0);
        assert_eq!(broken.err().map(|e| e.code), Some(Code::SamplesUnreadable));
    }
}
