//! Runs the cases that `xtask/src/conformance.py` wrote: compiles each in float, runs the code in this process and
//! compares with the expected outputs. One line per case on standard output; `cargo xtask conformance` reads them and
//! starts this program again behind a case that ended it.
//!
//! Usage: `conformance FOLDER FIRST COUNT check|report [FILTER]`; for a report, cases on floats are also compiled with 8 bits.

use quernel::{
    Calibration, Compiled, Compiler, Failure, Model, ModelOptions, interp,
    ir::{Elem, Program, Scalar},
    parse_bits,
};
use std::{
    fs,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

#[derive(Default)]
struct Case {
    suite: String,
    name: String,
    op: String,
    rtol: f64,
    atol: f64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    models: Vec<String>,
    outside: Option<String>,
}

struct Port {
    kind: String,
    dims: Vec<usize>,
    name: String,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, first, count, what, filter @ ..] = &arguments[..] else {
        panic!("usage: conformance FOLDER FIRST COUNT check|report [FILTER]")
    };
    let folder = PathBuf::from(folder);
    let index = fs::read_to_string(folder.join("index.txt")).expect("the index of the cases");
    let number = |s: &String| s.parse::<usize>().expect("a number");
    std::panic::set_hook(Box::new(|_| ()));
    let out = std::io::stdout();
    for (i, case) in cases(&index).iter().enumerate().skip(number(first)).take(number(count)) {
        if filter.first().is_some_and(|f| !case.name.contains(f.as_str())) {
            continue;
        }
        let line = |text: String| {
            let mut out = out.lock();
            writeln!(out, "{text}").and_then(|()| out.flush()).expect("standard output is open");
        };
        line(format!("start\t{i}\t{}\t{}\t{}", case.suite, case.name, case.op));
        let verdict = match &case.outside {
            Some(why) => format!("fail\t\tout of scope: {why}"),
            None => judge(&folder, case),
        };
        let report = what == "report" && verdict.starts_with("pass");
        let quantized = if report { quantized(&folder, case).unwrap_or_default() } else { "" };
        line(format!("end\t{i}\t{verdict}\t{quantized}"));
    }
}

fn cases(index: &str) -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    for line in index.lines().skip(1) {
        let mut words = line.splitn(6, ' ');
        let key = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        if key == "case" {
            let number = |s: &str| s.parse().expect("a tolerance");
            all.push(Case {
                suite: rest[0].into(),
                name: rest[1].into(),
                op: rest[2].into(),
                rtol: number(rest[3]),
                atol: number(rest[4]),
                ..Case::default()
            });
            continue;
        }
        let case = all.last_mut().expect("a case comes first");
        match key {
            "model" => case.models.push(rest[0].into()),
            "outside" => case.outside = Some(rest.join(" ")),
            _ => {
                let dims = if rest[1] == "-" { vec![] } else { rest[1].split('x').map(|d| d.parse().expect("an extent")).collect() };
                let port = Port { kind: rest[0].into(), dims, name: rest[2..].join(" ") };
                if key == "in" { case.inputs.push(port) } else { case.outputs.push(port) }
            }
        }
    }
    all
}

/// `pass`, the model, how it was compiled; or `fail`, the model, why.
fn judge(folder: &Path, case: &Case) -> String {
    let mut why = String::new();
    for (i, model) in case.models.iter().enumerate() {
        let result = catch_unwind(AssertUnwindSafe(|| run(folder, case, model))).unwrap_or_else(|e| {
            let text = e.downcast_ref::<String>().cloned().or_else(|| e.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("PANIC {}", text.unwrap_or_default()))
        });
        match result {
            Ok(how) => return format!("pass\t{model}\t{how}"),
            // The form with the most constants that still has work for run time says best what is missing.
            Err(e) if i == 0 || model != "constant" => why = e.replace(['\n', '\t'], " "),
            Err(e) if case.models.len() == 2 && e.starts_with("PANIC") => why = e,
            Err(_) => {}
        }
    }
    format!("fail\t\t{why}")
}

fn first(f: Failure) -> String {
    f.0.first().map_or_else(String::new, |d| format!("{:?}: {}", d.code, d.message))
}

fn compile(folder: &Path, case: &Case, model: &str, compiler: &Compiler) -> Result<Compiled, String> {
    let place = folder.join(&case.suite).join(&case.name);
    let bytes = fs::read(place.join(format!("{model}.onnx"))).map_err(|e| e.to_string())?;
    let mut options = ModelOptions::default();
    // Weights of whole classifiers are made by `ConstantOfShape`.
    options.limits.made_bytes = 2 << 30;
    let model = Model::from_bytes(bytes, "case", &options).map_err(first)?;
    compiler.compile(&model, &mut |_| ()).map_err(first)
}

/// What the steps of a program work on.
fn works_on(program: &Program) -> &'static str {
    let names = || program.steps.iter().map(|s| s.what.name());
    let floats = names().any(|n| n.ends_with("_f32") || n.ends_with("_f64"));
    let moves = ["move", "fill", "gather", "scatter", "expand", "quantize", "dequantize"];
    if program.inputs.is_empty() || program.steps.is_empty() {
        "folded"
    } else if floats && names().any(|n| n.starts_with("conv") && !n.ends_with("_f32")) {
        "integer layers"
    } else if floats {
        "float"
    } else if names().all(|n| moves.contains(&n)) {
        "moves"
    } else if names().all(|n| n == "lookup" || moves.contains(&n)) {
        "table"
    } else {
        "integer"
    }
}

/// What a case on floats becomes with 8 bits between integers: the best of its forms. What gets no ranges, because random
/// operands are outside of its domain, stays float.
fn quantized(folder: &Path, case: &Case) -> Option<&'static str> {
    if case.suite != "node" || !case.inputs.iter().any(|p| p.kind == "float32") {
        return None;
    }
    let compiler = Compiler { calibration: Calibration::Random(4), integer_io: true, ..Compiler::default() };
    let made = case.models.iter().filter(|m| *m != "constant").filter_map(|model| {
        let compiled = catch_unwind(AssertUnwindSafe(|| compile(folder, case, model, &compiler))).ok()?.ok()?;
        Some(works_on(compiled.program().ok()?))
    });
    let rank = |kind: &&str| ["moves", "table", "integer", "integer layers", "float"].iter().position(|k| k == kind).unwrap_or(9);
    Some(made.min_by_key(rank).unwrap_or("float"))
}

fn run(folder: &Path, case: &Case, model: &str) -> Result<String, String> {
    let place = folder.join(&case.suite).join(&case.name);
    let compiler = Compiler { bits: parse_bits("float").map_err(first)?, ..Compiler::default() };
    let compiled = compile(folder, case, model, &compiler)?;
    let program = compiled.program().map_err(first)?;
    let mut inputs = Vec::new();
    for port in &program.inputs {
        let at = case.inputs.iter().position(|p| p.name == port.name).ok_or_else(|| format!("no data for input {:?}", port.name))?;
        let data = fs::read(place.join(format!("in{at}.bin"))).map_err(|e| e.to_string())?;
        if port.ty.dims != case.inputs[at].dims || data.len() != port.ty.bytes() {
            return Err(format!("input {:?} is {}, the data {:?} {}", port.name, port.ty, case.inputs[at].dims, case.inputs[at].kind));
        }
        inputs.push(data);
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let mut jit = compiled.jit().map_err(first)?;
    let got = jit.run(&inputs).map_err(|d| d.message)?;
    // Whole image classifiers take minutes in the interpreter.
    if case.suite != "light" {
        let want = interp::run_program(program, &inputs).map_err(|d| format!("interpreter: {}", d.message))?;
        if got != want {
            return Err("compiled code differs from the interpreter".into());
        }
    }
    for (i, (port, bytes)) in program.outputs.iter().zip(&got).enumerate() {
        let expected = &case.outputs.get(i).ok_or("more outputs than expected")?;
        let data = fs::read(place.join(format!("out{i}.bin"))).map_err(|e| e.to_string())?;
        if port.ty.dims != expected.dims {
            return Err(format!("output {:?} is {}, expected {:?}", port.name, port.ty, expected.dims));
        }
        let own = kind(&port.ty.elem);
        if own != held(&expected.kind) {
            return Err(format!("output {:?} is {own}, expected {}", port.name, expected.kind));
        }
        let (mine, theirs) = (numbers(&own, bytes)?, numbers(&own, &data)?);
        // As the suite compares: two units of bfloat16 where that is more, and codes of small floats by their bits.
        let rtol = match expected.kind.as_str() {
            "bfloat16" => case.rtol.max(1.0 / 64.0),
            k if k.starts_with("float8") || k.starts_with("float4") => 0.0,
            _ => case.rtol,
        };
        for (j, (&x, &y)) in mine.iter().zip(&theirs).enumerate() {
            let close = x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= case.atol + rtol * y.abs();
            if !close {
                return Err(format!("wrong: output {i} element {j} is {x}, expected {y}"));
            }
        }
    }
    Ok(works_on(program).into())
}

fn kind(elem: &Elem) -> String {
    match elem {
        Elem::Scalar(s) => match s {
            Scalar::F64 => "float64".into(),
            Scalar::F32 => "float32".into(),
            Scalar::F16 => "float16".into(),
            Scalar::BF16 => "bfloat16".into(),
            Scalar::Bool => "bool".into(),
            s => format!("{}int{}", if s.is_signed() { "" } else { "u" }, 8 * s.bytes()),
        },
        Elem::Quant(q) => format!("{}int{}", if q.storage().signed() { "" } else { "u" }, q.storage().bits()),
    }
}

/// The type of the bytes that hold elements of a type the compiler does not have.
fn held(kind: &str) -> &str {
    match kind {
        "int4" | "int2" => "int8",
        k if ["uint4", "uint2", "float8", "float4"].iter().any(|n| k.starts_with(n)) => "uint8",
        k => k,
    }
}

fn numbers(kind: &str, bytes: &[u8]) -> Result<Vec<f64>, String> {
    Ok(match kind {
        "float32" => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
        "float64" => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        "float16" | "bfloat16" => bytes.as_chunks::<2>().0.iter().map(|b| half(u16::from_le_bytes(*b), kind == "bfloat16")).collect(),
        "int64" => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
        "uint64" => bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) as f64).collect(),
        "int32" => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(i32::from_le_bytes(*b))).collect(),
        "uint32" => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(u32::from_le_bytes(*b))).collect(),
        "int16" => bytes.as_chunks::<2>().0.iter().map(|b| f64::from(i16::from_le_bytes(*b))).collect(),
        "uint16" => bytes.as_chunks::<2>().0.iter().map(|b| f64::from(u16::from_le_bytes(*b))).collect(),
        "int8" => bytes.iter().map(|b| f64::from(*b as i8)).collect(),
        "uint8" | "bool" => bytes.iter().map(|b| f64::from(*b)).collect(),
        other => return Err(format!("elements of type {other}")),
    })
}

/// A 16-bit float: binary16, or the upper half of binary32.
fn half(bits: u16, brain: bool) -> f64 {
    if brain {
        return f64::from(f32::from_bits(u32::from(bits) << 16));
    }
    let (sign, exponent, mantissa) = (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => mantissa * 2f64.powi(-24),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + mantissa / 1024.0) * 2f64.powi(e - 15),
    }
}
