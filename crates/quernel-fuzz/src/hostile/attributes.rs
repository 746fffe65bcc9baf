//! Attributes and constant operands at the ends of their types.

use super::{Cases, Expect, write::*};
use quernel::onnx::proto::AttributeProto;

/// What a list of window parameters may be filled with.
const EXTREMES: &[i64] = &[0, -1, i64::MIN, i64::MAX, 1 << 31, 1 << 32, 1 << 62];

pub fn add(cases: &mut Cases) {
    windows(cases);
    axes(cases);
    quantization(cases);
    division(cases);
    operands(cases);
    elements(cases);
}

/// Every parameter of every sliding window at every extreme.
fn windows(cases: &mut Cases) {
    for op in ["Conv", "ConvTranspose", "MaxPool", "AveragePool"] {
        let weighted = op.starts_with("Conv");
        let net = |attributes: Vec<AttributeProto>| {
            let inputs: &[&str] = if weighted { &["x", "w"] } else { &["x"] };
            net(&[1, 4, 8, 8], vec![node(op, inputs, &["y"], attributes)], vec![halves("w", &[4, 4, 3, 3])])
        };
        for (name, length) in [("kernel_shape", 2), ("strides", 2), ("dilations", 2), ("pads", 4), ("output_padding", 2)] {
            if name == "output_padding" && op != "ConvTranspose" {
                continue;
            }
            let kernel = if weighted || name == "kernel_shape" { vec![] } else { vec![ints("kernel_shape", &[3, 3])] };
            for (i, &extreme) in EXTREMES.iter().enumerate() {
                // Only padding may be 0.
                let legal = extreme == 0 && name.contains("pad");
                let made = net([kernel.clone(), vec![ints(name, &vec![extreme; length])]].concat());
                cases.add(if legal { Expect::Ok } else { Expect::Error }, format!("{op}-{name}-{i}"), made);
            }
            for (what, length) in [("empty", 0), ("short", length - 1), ("long", length + 1), ("longest", 100_000)] {
                let made = net([kernel.clone(), vec![ints(name, &vec![1; length])]].concat());
                let expect = if what == "empty" { Expect::Either } else { Expect::Error };
                cases.add(expect, format!("{op}-{name}-{what}"), made);
            }
        }
        cases.add(Expect::Error, format!("{op}-auto-pad"), net(vec![ints("kernel_shape", &[3, 3]), word("auto_pad", "SAME_SIDEWAYS")]));
    }
    for groups in [0, -1, 3, 5, 1 << 40, i64::MIN] {
        let made =
            net(&[1, 4, 8, 8], vec![node("Conv", &["x", "w"], &["y"], vec![int("group", groups)])], vec![halves("w", &[4, 4, 3, 3])]);
        cases.add(Expect::Error, format!("Conv-group-{groups}"), made);
    }
    for block in [0, -2, 3, 1 << 31, i64::MAX] {
        for op in ["DepthToSpace", "SpaceToDepth"] {
            let made = net(&[1, 4, 8, 8], vec![node(op, &["x"], &["y"], vec![int("blocksize", block)])], vec![]);
            cases.add(Expect::Error, format!("{op}-{block}"), made);
        }
    }
}

/// Axes that are not there, and permutations that are none.
fn axes(cases: &mut Cases) {
    for op in ["Softmax", "LogSoftmax", "Concat", "Split", "Gather", "LayerNormalization", "Flatten"] {
        for axis in [4, -5, 1 << 32, i64::MAX, i64::MIN] {
            let inputs: &[&str] = match op {
                "Concat" => &["x", "x"],
                "Gather" => &["x", "i"],
                "LayerNormalization" => &["x", "s"],
                _ => &["x"],
            };
            let held = vec![longs("i", &[0]), halves("s", &[8])];
            let made = net(&[1, 4, 8, 8], vec![node(op, inputs, &["y"], vec![int("axis", axis)])], held);
            // Flatten may cut behind the last axis.
            let expect = if op == "Flatten" && axis == 4 { Expect::Ok } else { Expect::Error };
            cases.add(expect, format!("axis-{op}-{axis}"), made);
        }
    }
    for (i, perm) in
        [&[0, 1, 2][..], &[0, 1, 2, 2], &[0, 1, 2, 4], &[0, 1, 2, -1], &[3, 2, 1, 0, 4], &[i64::MAX, 0, 1, 2]].iter().enumerate()
    {
        cases.add(
            Expect::Error,
            format!("perm-{i}"),
            net(&[1, 4, 8, 8], vec![node("Transpose", &["x"], &["y"], vec![ints("perm", perm)])], vec![]),
        );
    }
    for op in ["ReduceMean", "ReduceMax", "ReduceL2"] {
        for (i, axes) in [&[4][..], &[-5], &[1, 1], &[1, -3], &[i64::MIN], &[0; 5000]].iter().enumerate() {
            let made = net(&[1, 4, 8, 8], vec![node(op, &["x"], &["y"], vec![ints("axes", axes)])], vec![]);
            cases.add(Expect::Error, format!("axes-{op}-{i}"), made);
        }
    }
}

/// Scales and zero points that are none.
fn quantization(cases: &mut Cases) {
    let pair = |scale: &[f32], zero: quernel::onnx::proto::TensorProto| {
        let scales = floats("s", if scale.len() == 1 { &[] } else { &[2] }, scale);
        let nodes =
            vec![node("QuantizeLinear", &["x", "s", "z"], &["q"], vec![]), node("DequantizeLinear", &["q", "s", "z"], &["y"], vec![])];
        net(&[2, 8], nodes, vec![scales, zero])
    };
    let byte = || raw("z", UINT8, &[], vec![3]);
    for (name, scale) in [
        ("zero", 0.0),
        ("negative-zero", -0.0),
        ("negative", -1.0),
        ("nan", f32::NAN),
        ("infinite", f32::INFINITY),
        ("minus-infinite", f32::NEG_INFINITY),
    ] {
        cases.add(Expect::Error, format!("scale-{name}"), pair(&[scale], byte()));
    }
    for (name, scale) in [("subnormal", 1e-44), ("smallest", f32::MIN_POSITIVE), ("largest", f32::MAX)] {
        cases.add(Expect::Either, format!("scale-{name}"), pair(&[scale], byte()));
    }
    cases.add(Expect::Ok, "scale-ordinary", pair(&[0.1], byte()));
    cases.add(Expect::Error, "scale-list-per-tensor", pair(&[0.1, 0.2], byte()));
    cases.add(Expect::Error, "zero-point-of-floats", pair(&[0.1], floats("z", &[], &[3.0])));
    cases.add(Expect::Error, "zero-point-list", pair(&[0.1], bytes("z", UINT8, &[1, 2, 3])));
    cases.add(Expect::Error, "zero-point-of-longs", pair(&[0.1], long("z", 3)));
    let conv = |zw: u8, sw: f32, sy: f32| {
        let held = vec![
            floats("sx", &[], &[0.1]),
            raw("zx", UINT8, &[], vec![7]),
            raw("w", INT8, &[2, 1, 1, 1], vec![100, 0x80]),
            floats("sw", &[], &[sw]),
            raw("zw", INT8, &[], vec![zw]),
            floats("sy", &[], &[sy]),
            raw("zy", UINT8, &[], vec![250]),
        ];
        let nodes = vec![
            node("QuantizeLinear", &["x", "sx", "zx"], &["q"], vec![]),
            node("QLinearConv", &["q", "sx", "zx", "w", "sw", "zw", "sy", "zy"], &["r"], vec![]),
            node("DequantizeLinear", &["r", "sy", "zy"], &["y"], vec![]),
        ];
        net(&[1, 1, 4, 4], nodes, held)
    };
    cases.add(Expect::Ok, "qlinear-conv", conv(0, 0.1, 0.2));
    for (name, zw, sw, sy) in [
        ("zero-point-5", 5, 0.1, 0.2),
        ("multiplier-huge", 0, 1e30, 1e-30),
        ("multiplier-tiny", 0, 1e-30, 1e30),
        ("multiplier-256", 0, 512.0, 0.2),
    ] {
        cases.add(Expect::Either, format!("qlinear-{name}"), conv(zw, sw, sy));
    }
    for (name, sw, sy) in [("weight-scale-nan", f32::NAN, 0.2), ("result-scale-zero", 0.1, 0.0), ("weight-scale-negative", -0.1, 0.2)] {
        cases.add(Expect::Error, format!("qlinear-{name}"), conv(0, sw, sy));
    }
    // Stored integers of one type under a zero point, or a declaration, of the other.
    for (name, x, zero, y, expect) in [
        ("same", UINT8, UINT8, UINT8, Expect::Ok),
        ("operand", INT8, UINT8, UINT8, Expect::Error),
        ("zero-point", UINT8, INT8, INT8, Expect::Error),
        ("result", UINT8, UINT8, INT8, Expect::Error),
    ] {
        let scales = vec![floats("s", &[], &[0.1]), raw("zx", zero, &[], vec![3]), raw("zy", zero, &[], vec![3])];
        let nodes = vec![
            node("DequantizeLinear", &["x", "s", "zx"], &["r"], vec![]),
            node("Relu", &["r"], &["p"], vec![]),
            node("QuantizeLinear", &["p", "s", "zy"], &["y"], vec![]),
        ];
        let all = graph(nodes, vec![typed("x", &[1, 8], x)], vec![typed("y", &[1, 8], y)], scales);
        cases.add(expect, format!("stored-type-{name}"), model_of(all));
    }
}

/// Integers divided by constants.
fn division(cases: &mut Cases) {
    for (name, op, by, expect) in [
        ("div-7", "Div", 7, Expect::Ok),
        ("div-0", "Div", 0, Expect::Error),
        ("div-minus-1", "Div", -1, Expect::Either),
        ("mod-0", "Mod", 0, Expect::Error),
    ] {
        let divided = node(op, &["x", "d"], &["y"], vec![]);
        let all = graph(vec![divided], vec![typed("x", &[4], INT64)], vec![typed("y", &[4], INT64)], vec![long("d", by)]);
        cases.add(expect, format!("integer-{name}"), model_of(all));
        // Of two constants, on the way to a shape.
        let nodes = vec![
            node(op, &["a", "d"], &["q"], vec![]),
            node("Concat", &["q", "rest"], &["s"], vec![int("axis", 0)]),
            node("Reshape", &["x", "s"], &["y"], vec![]),
        ];
        let shape = net(&[2, 8], nodes, vec![longs("a", &[14]), long("d", by), longs("rest", &[-1])]);
        cases.add(if name == "div-minus-1" { Expect::Error } else { expect }, format!("shape-{name}"), shape);
    }
}

/// Operands that decide shapes.
fn operands(cases: &mut Cases) {
    for (i, shape) in
        [&[-1, -1][..], &[-2, 4], &[7, 7], &[0, 0], &[i64::MAX, 2], &[1 << 32, 1 << 32], &[i64::MIN], &[1; 9], &[3, -1]].iter().enumerate()
    {
        // Zeros copy the extents there are.
        cases.add(
            if i == 3 { Expect::Ok } else { Expect::Error },
            format!("reshape-{i}"),
            net(&[1, 8], vec![node("Reshape", &["x", "s"], &["y"], vec![])], vec![longs("s", shape)]),
        );
    }
    for (i, shape) in [&[3, 8][..], &[2, 1, 8]].iter().enumerate() {
        cases.add(
            Expect::Ok,
            format!("expand-{i}"),
            net(&[1, 8], vec![node("Expand", &["x", "s"], &["y"], vec![])], vec![longs("s", shape)]),
        );
    }
    for (i, shape) in [&[1, 9][..], &[-1, 8], &[0, 8], &[i64::MAX, 8], &[1; 12]].iter().enumerate() {
        // An extent of 1 repeats no times, too.
        cases.add(
            if i == 2 { Expect::Ok } else { Expect::Error },
            format!("expand-bad-{i}"),
            net(&[1, 8], vec![node("Expand", &["x", "s"], &["y"], vec![])], vec![longs("s", shape)]),
        );
    }
    for (i, index) in [8, -9, i64::MAX, i64::MIN, 1 << 32].into_iter().enumerate() {
        let made = net(&[1, 8], vec![node("Gather", &["x", "i"], &["y"], vec![int("axis", 1)])], vec![longs("i", &[index])]);
        cases.add(Expect::Error, format!("gather-{i}"), made);
    }
    for (i, (start, end, step)) in
        [(0, 8, 0), (0, i64::MAX, 1), (i64::MIN, i64::MAX, 1), (7, i64::MIN, -1), (0, 8, i64::MAX), (7, i64::MIN, i64::MIN), (5, 2, 1)]
            .into_iter()
            .enumerate()
    {
        let held = vec![longs("b", &[start]), longs("e", &[end]), longs("a", &[1]), longs("s", &[step])];
        let made = net(&[1, 8], vec![node("Slice", &["x", "b", "e", "a", "s"], &["y"], vec![])], held);
        // A step of 0 is wrong; the last selects nothing, which is no fault.
        cases.add(if step == 0 { Expect::Error } else { Expect::Ok }, format!("slice-{i}"), made);
    }
    for (i, pads) in
        [&[0, -9, 0, 0][..], &[0, i64::MAX, 0, 0], &[0, i64::MIN, 0, 0], &[0, 1 << 40, 0, 1 << 40], &[1, 1, 1]].iter().enumerate()
    {
        cases.add(Expect::Error, format!("pad-{i}"), net(&[1, 8], vec![node("Pad", &["x", "p"], &["y"], vec![])], vec![longs("p", pads)]));
    }
    for (i, scale) in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30, 1e-30].into_iter().enumerate() {
        let made =
            net(&[1, 1, 4, 4], vec![node("Resize", &["x", "", "s"], &["y"], vec![])], vec![floats("s", &[4], &[1.0, 1.0, scale, scale])]);
        cases.add(Expect::Error, format!("resize-scale-{i}"), made);
    }
    for (i, size) in [0, -1, i64::MAX, 1 << 33].into_iter().enumerate() {
        let made = net(&[1, 1, 4, 4], vec![node("Resize", &["x", "", "", "s"], &["y"], vec![])], vec![longs("s", &[1, 1, size, 4])]);
        cases.add(Expect::Error, format!("resize-size-{i}"), made);
    }
    for (i, parts) in [&[8, 1][..], &[-1, 9], &[4, 3], &[0, 8], &[i64::MAX, i64::MAX]].iter().enumerate() {
        let made = net(&[1, 8], vec![node("Split", &["x", "p"], &["y", "z"], vec![int("axis", 1)])], vec![longs("p", parts)]);
        cases.add(if i == 3 { Expect::Either } else { Expect::Error }, format!("split-{i}"), made);
    }
}

/// Numbers in functions of an element.
fn elements(cases: &mut Cases) {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45, -0.0] {
        let one = |op: &str, name: &str| net(&[1, 8], vec![node(op, &["x"], &["y"], vec![float(name, x)])], vec![]);
        let expect = if x.is_nan() { Expect::Error } else { Expect::Either };
        cases.add(expect, format!("leaky-{x:e}"), one("LeakyRelu", "alpha"));
        cases.add(expect, format!("sigmoid-{x:e}"), one("HardSigmoid", "beta"));
        let norm = net(
            &[1, 2, 4],
            vec![node("BatchNormalization", &["x", "s", "s", "s", "v"], &["y"], vec![float("epsilon", 1e-5)])],
            vec![halves("s", &[2]), floats("v", &[2], &[x, 1.0])],
        );
        cases.add(Expect::Either, format!("variance-{x:e}"), norm);
        let clip = net(&[1, 8], vec![node("Clip", &["x", "l"], &["y"], vec![])], vec![floats("l", &[], &[x])]);
        cases.add(Expect::Either, format!("clip-{x:e}"), clip);
        let gemm = net(&[1, 8], vec![node("Gemm", &["x", "w"], &["y"], vec![])], vec![floats("w", &[8, 2], &[x; 16])]);
        cases.add(Expect::Either, format!("weights-{x:e}"), gemm);
    }
}
