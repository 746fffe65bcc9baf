//! Prints how well every calibrator does on activations, and every scheme on weights, by the shape of their distribution:
//! the table of docs/quantization.md. Activations are calibrated on one draw and judged on another.

use quernel_ir::{Storage, exact};
use quernel_quant::{
    Calibrator, Method, Observed, TableScheme,
    weights::{Levels, mse_scales, quantize_rows},
};

/// Values of a shape from uniform numbers.
type Shape = (&'static str, fn(&mut Random) -> f64);

/// A linear congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        let (r, a) = (self.uniform(), self.uniform());
        (-2.0 * r.ln()).sqrt() * (std::f64::consts::TAU * a).cos()
    }
}

const SHAPES: [Shape; 6] = [
    ("uniform", |r| 2.0 * r.uniform() - 1.0),
    ("gaussian", Random::normal),
    ("heavy tails (Laplace)", |r| -r.uniform().ln() * if r.uniform() < 0.5 { 1.0 } else { -1.0 }),
    ("rectified gaussian", |r| r.normal().max(0.0)),
    ("skewed (lognormal)", |r| r.normal().exp()),
    ("gaussian, 0.1 % outliers x20", |r| r.normal() * if r.uniform() < 1e-3 { 20.0 } else { 1.0 }),
];

const METHODS: [Method; 6] =
    [Method::MinMax, Method::Mean, Method::Percentile(1000), Method::Percentile(100), Method::Entropy, Method::Mse];
const CALIBRATION: usize = 20_000;
const HELD_OUT: usize = 200_000;
const ROWS: usize = 64;

fn draw(shape: Shape, count: usize, seed: u64) -> Vec<f32> {
    let mut r = Random(seed);
    (0..count).map(|_| shape.1(&mut r) as f32).collect()
}

fn db(pairs: impl Iterator<Item = (f32, f64)>) -> f64 {
    let (mut signal, mut noise) = (0f64, f64::MIN_POSITIVE);
    for (x, y) in pairs {
        signal += f64::from(x) * f64::from(x);
        noise += (f64::from(x) - y).powi(2);
    }
    10.0 * (signal / noise).log10()
}

/// Held-out signal to noise of activations, in dB.
fn activations(shape: Shape, bits: u8, calibrator: Calibrator) -> f64 {
    let mut seen = Observed::default();
    for sample in draw(shape, CALIBRATION, 1).chunks(CALIBRATION / 16) {
        seen.record("x", &[1, 1, sample.len()], sample).expect("finite");
        seen.end_sample();
    }
    let storage = Storage::new(bits, false).expect("a width");
    let (scale, zero) = seen.finish().params("x", storage, calibrator).expect("seen");
    let (lo, hi) = storage.range();
    let value = |x: f32| f64::from(exact::dequantize(exact::quantize(x, scale, zero, lo, hi), scale, zero));
    db(draw(shape, HELD_OUT, 2).into_iter().map(|x| (x, value(x))))
}

/// Signal to noise of weights, in dB.
fn weights(shape: Shape, levels: &dyn Fn(&[f32]) -> Levels, largest: bool) -> f64 {
    let w = draw(shape, 1 << 16, 3);
    let levels = levels(&w);
    let row = w.len() / ROWS;
    let scales = if largest {
        let most = match &levels {
            Levels::Linear { max, .. } => *max as f32,
            Levels::Table(t) => f32::from(t.iter().copied().max().unwrap_or(1)),
        };
        w.chunks(row).map(|r| r.iter().fold(0f32, |m, x| m.max(x.abs())) / most).collect()
    } else {
        mse_scales(&w, ROWS, &levels)
    };
    let codes = quantize_rows(&w, ROWS, &scales, &levels);
    let real = |i: usize| match &levels {
        Levels::Linear { .. } => f64::from(codes[i]) * f64::from(scales[i / row]),
        Levels::Table(t) => f64::from(t[codes[i] as usize]) * f64::from(scales[i / row]),
    };
    db(w.iter().enumerate().map(|(i, x)| (*x, real(i))))
}

fn main() {
    for bits in [8, 4] {
        println!("Activations of {bits} bits, held-out signal to noise in dB; asymmetric, and symmetric in brackets:\n");
        print!("| values |");
        METHODS.iter().for_each(|m| print!(" {m} |"));
        println!("\n| --- |{}", " --- |".repeat(METHODS.len()));
        for shape in SHAPES {
            print!("| {} |", shape.0);
            for method in METHODS {
                let of = |symmetric| activations(shape, bits, Calibrator { method, symmetric });
                print!(" {:.1} ({:.1}) |", of(false), of(true));
            }
            println!();
        }
        println!();
    }
    println!("Weights, signal to noise in dB:\n");
    print!("| values | 8 bits to the largest | 8 bits | 4 bits to the largest | 4 bits |");
    let tables = [(4, TableScheme::Codebook), (4, TableScheme::Normal), (4, TableScheme::PowerOfTwo), (2, TableScheme::Codebook)];
    tables.iter().for_each(|(bits, t)| print!(" {bits} bits {t} |"));
    println!(" 2 bits | ternary | binary |\n| --- |{}", " --- |".repeat(7 + tables.len()));
    for shape in SHAPES {
        print!("| {} |", shape.0);
        for (bits, largest) in [(8, true), (8, false), (4, true), (4, false)] {
            print!(" {:.1} |", weights(shape, &|_| Levels::signed(bits), largest));
        }
        for (bits, t) in tables {
            print!(" {:.1} |", weights(shape, &|w| t.levels(bits, w, ROWS), false));
        }
        print!(" {:.1} |", weights(shape, &|_| Levels::signed(2), false));
        for t in [TableScheme::Ternary, TableScheme::Binary] {
            print!(" {:.1} |", weights(shape, &|w| t.levels(2, w, ROWS), false));
        }
        println!();
    }
}
