//! Small files that ask for much memory or time.

use super::{Cases, Expect, write::*};
use quernel::onnx::proto::{ModelProto, NodeProto};

pub fn add(cases: &mut Cases) {
    sizes(cases);
    growth(cases);
    repetition(cases);
    length(cases);
}

/// One tensor that is far larger than the file.
fn sizes(cases: &mut Cases) {
    let filled =
        |shape: &[i64], op: NodeProto| net(&[1, 8], vec![node("ConstantOfShape", &["s"], &["c"], vec![]), op], vec![longs("s", shape)]);
    for (i, shape) in
        [&[1 << 31][..], &[1 << 20, 1 << 20], &[1 << 16, 1 << 15], &[i64::MAX], &[1 << 62, 4], &[100_000, 8]].iter().enumerate()
    {
        let expect = if i == 5 { Expect::Either } else { Expect::Error };
        cases.add(expect, format!("constant-{i}"), filled(shape, node("Add", &["x", "c"], &["y"], vec![])));
    }
    let (nan, infinite) = (f32::NAN, f32::INFINITY);
    for (i, bounds) in [[0.0, nan, 1.0], [nan, 4.0, 1.0], [0.0, 4.0, nan], [0.0, infinite, 1.0], [infinite, 4.0, 1.0], [0.0, 4.0, infinite]]
        .iter()
        .enumerate()
    {
        let operands = ["a", "b", "c"].iter().zip(bounds).map(|(name, x)| floats(name, &[], &[*x])).collect();
        cases.add(Expect::Error, format!("range-{i}"), net(&[1, 8], vec![node("Range", &["a", "b", "c"], &["y"], vec![])], operands));
    }
    let expanded = |shape: &[i64], rest: Vec<NodeProto>| {
        net(&[1, 1], [vec![node("Expand", &["x", "s"], &["e"], vec![])], rest].concat(), vec![longs("s", shape)])
    };
    cases.add(Expect::Error, "expand", expanded(&[1 << 20, 1 << 20], vec![node("Relu", &["e"], &["y"], vec![])]));
    cases.add(Expect::Either, "expand-2g", expanded(&[1 << 16, 1 << 14], vec![node("ReduceSum", &["e"], &["y"], vec![])]));
    cases.add(Expect::Either, "expand-of-constant", {
        let held = vec![longs("s", &[1 << 14, 1 << 14]), halves("c", &[1, 1])];
        net(
            &[1, 1],
            vec![
                node("Expand", &["c", "s"], &["e"], vec![]),
                node("ReduceSum", &["e"], &["r"], vec![]),
                node("Add", &["x", "r"], &["y"], vec![]),
            ],
            held,
        )
    });
    cases.add(Expect::Either, "transposed-constant", {
        let held = vec![longs("s", &[1 << 13, 1 << 14]), halves("c", &[1, 1])];
        let nodes = vec![
            node("Expand", &["c", "s"], &["e"], vec![]),
            node("Transpose", &["e"], &["t"], vec![]),
            node("MatMul", &["x", "t"], &["y"], vec![]),
        ];
        net(&[1, 1 << 14], nodes, held)
    });
    cases.add(Expect::Either, "outer-product", {
        let nodes = vec![node("Transpose", &["x"], &["t"], vec![]), node("MatMul", &["t", "x"], &["y"], vec![])];
        net(&[1, 1 << 15], nodes, vec![])
    });
    cases.add(Expect::Error, "outer-sum", {
        let nodes = vec![node("Transpose", &["x"], &["t"], vec![]), node("Add", &["t", "x"], &["y"], vec![])];
        net(&[1, 1 << 17], nodes, vec![])
    });
    cases.add(
        Expect::Error,
        "padded",
        net(&[1, 1, 8, 8], vec![node("Conv", &["x", "w"], &["y"], vec![ints("pads", &[1 << 20; 4])])], vec![halves("w", &[1, 1, 3, 3])]),
    );
    cases.add(Expect::Error, "transposed-strides", {
        net(
            &[1, 1, 8, 8],
            vec![node("ConvTranspose", &["x", "w"], &["y"], vec![ints("strides", &[1 << 20; 2])])],
            vec![halves("w", &[1, 1, 3, 3])],
        )
    });
    cases.add(
        Expect::Error,
        "resized",
        net(&[1, 1, 8, 8], vec![node("Resize", &["x", "", "s"], &["y"], vec![])], vec![floats("s", &[4], &[1.0, 1.0, 1e5, 1e5])]),
    );
    cases.add(Expect::Either, "window", {
        net(
            &[1, 1, 8, 8],
            vec![node("AveragePool", &["x"], &["y"], vec![ints("kernel_shape", &[40_000; 2]), ints("pads", &[20_000; 4])])],
            vec![],
        )
    });
    for (i, dims) in
        [&[1, i64::MAX][..], &[1 << 31, 2], &[1 << 32, 1 << 32], &[1, 1 << 31, 1 << 31, 0], &[0, 1 << 40, 1 << 40]].iter().enumerate()
    {
        cases.add(Expect::Error, format!("input-{i}"), net(dims, vec![node("Relu", &["x"], &["y"], vec![])], vec![]));
    }
    for (i, dims) in [&[1 << 40, 1 << 40][..], &[i64::MAX], &[1 << 31], &[3, i64::MAX, i64::MAX, 0]].iter().enumerate() {
        let made = net(&[1, 8], vec![node("Add", &["x", "w"], &["y"], vec![])], vec![raw("w", FLOAT, dims, vec![])]);
        cases.add(Expect::Error, format!("initializer-{i}"), made);
    }
}

/// Tensors that double from node to node.
fn growth(cases: &mut Cases) {
    for (name, rounds) in [("20", 20), ("40", 40), ("100", 100)] {
        let names: Vec<String> = (0..=rounds)
            .map(|i| {
                if i == 0 {
                    "x".into()
                } else if i == rounds {
                    "y".into()
                } else {
                    format!("v{i}")
                }
            })
            .collect();
        let chain = |op: &str, inputs: &dyn Fn(usize) -> Vec<String>| -> ModelProto {
            let nodes = (0..rounds).map(|i| {
                let inputs = inputs(i);
                node(op, &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &[&names[i + 1]], vec![int("axis", 1)])
            });
            net(&[1, 8], nodes.collect(), vec![])
        };
        let expect = if rounds == 20 { Expect::Either } else { Expect::Error };
        cases.add(expect, format!("concat-{name}"), chain("Concat", &|i| vec![names[i].clone(), names[i].clone()]));
    }
    // The same with constants, which are folded.
    let names: Vec<String> = (0..30).map(|i| format!("c{i}")).collect();
    let mut nodes: Vec<NodeProto> =
        (1..30).map(|i| node("Concat", &[&names[i - 1], &names[i - 1]], &[&names[i]], vec![int("axis", 0)])).collect();
    nodes.push(node("ReduceSum", &[&names[29]], &["r"], vec![]));
    nodes.push(node("Add", &["x", "r"], &["y"], vec![]));
    cases.add(Expect::Either, "concat-constants", net(&[1, 8], nodes, vec![halves("c0", &[8])]));
    let shapes: Vec<NodeProto> =
        (1..30).map(|i| node("Concat", &[&names[i - 1], &names[i - 1]], &[&names[i]], vec![int("axis", 0)])).collect();
    let nodes = [shapes, vec![node("Reshape", &["x", "c29"], &["y"], vec![])]].concat();
    cases.add(Expect::Error, "concat-shapes", net(&[1, 8], nodes, vec![longs("c0", &[1])]));
}

/// Bodies that run bodies.
fn repetition(cases: &mut Cases) {
    let with = |functions, nodes| ModelProto { functions, ..net(&[1, 8], nodes, vec![]) };
    cases.add(
        Expect::Error,
        "function-of-itself",
        with(vec![function("f", &["a"], &["b"], vec![call("f", &["a"], &["b"])])], vec![call("f", &["x"], &["y"])]),
    );
    cases.add(Expect::Error, "functions-of-each-other", {
        let f = function("f", &["a"], &["b"], vec![call("g", &["a"], &["b"])]);
        let g = function("g", &["a"], &["b"], vec![call("f", &["a"], &["b"])]);
        with(vec![f, g], vec![call("f", &["x"], &["y"])])
    });
    for (depth, calls) in [(14, 2), (15, 4), (8, 16), (3, 200)] {
        let name = |i: usize| format!("f{i}");
        let step = |i: usize| -> Vec<NodeProto> {
            let value = |j: usize| {
                if j == 0 {
                    "a".to_owned()
                } else if j == calls {
                    "b".into()
                } else {
                    format!("t{j}")
                }
            };
            (0..calls)
                .map(|j| {
                    let (from, to) = (value(j), value(j + 1));
                    if i == 0 { node("Relu", &[&from], &[&to], vec![]) } else { call(&name(i - 1), &[&from], &[&to]) }
                })
                .collect()
        };
        let functions = (0..depth).map(|i| function(&name(i), &["a"], &["b"], step(i))).collect();
        let expect = if depth == 14 { Expect::Either } else { Expect::Error };
        cases.add(expect, format!("functions-{depth}-{calls}"), with(functions, vec![call(&name(depth - 1), &["x"], &["y"])]));
    }
    let again = |trips: &str, inner: Vec<NodeProto>| {
        let inner = [inner, vec![node("Identity", &["on"], &["go"], vec![])]].concat();
        let inside = graph(
            inner,
            vec![typed("i", &[], INT64), typed("on", &[], 9), value("a", &[1, 8])],
            vec![typed("go", &[], 9), output("b")],
            vec![],
        );
        node("Loop", &[trips, "yes", "x"], &["y"], vec![body("body", inside)])
    };
    let relu = || vec![node("Relu", &["a"], &["b"], vec![])];
    for (name, trips, expect) in
        [("few", 8, Expect::Ok), ("many", 16_000, Expect::Either), ("endless", i64::MAX, Expect::Error), ("negative", -5, Expect::Either)]
    {
        cases.add(expect, format!("loop-{name}"), net(&[1, 8], vec![again("t", relu())], vec![long("t", trips), flag("yes", true)]));
    }
    cases.add(
        Expect::Error,
        "loop-doubles",
        net(
            &[1, 8],
            vec![again("t", vec![node("Concat", &["a", "a"], &["b"], vec![int("axis", 1)])])],
            vec![long("t", 60), flag("yes", true)],
        ),
    );
    cases.add(Expect::Error, "loop-without-end", net(&[1, 8], vec![again("", relu())], vec![flag("yes", true)]));
    let mut nested = node("Relu", &["a"], &["b"], vec![]);
    for _ in 0..3 {
        let mut inner = again("t", vec![nested]);
        inner.input[2] = "a".into();
        inner.output[0] = "b".into();
        nested = inner;
    }
    nested.input[2] = "x".into();
    nested.output[0] = "y".into();
    cases.add(Expect::Error, "loops-in-loops", net(&[1, 8], vec![nested], vec![long("t", 2000), flag("yes", true)]));
    for (name, length, expect) in [("short", 8, Expect::Ok), ("long", 16_000, Expect::Either), ("longest", 1 << 20, Expect::Error)] {
        let held = vec![halves("w", &[1, 32, 4]), halves("r", &[1, 32, 8])];
        let made = net(&[length, 1, 4], vec![node("LSTM", &["x", "w", "r"], &["y"], vec![int("hidden_size", 8)])], held);
        cases.add(expect, format!("lstm-{name}"), made);
    }
}

/// Many of everything.
fn length(cases: &mut Cases) {
    for (name, n, expect) in [("1000", 1000, Expect::Ok), ("20000", 20_000, Expect::Either)] {
        let value = |i: usize| {
            if i == 0 {
                "x".to_owned()
            } else if i == n {
                "y".into()
            } else {
                format!("v{i}")
            }
        };
        let chain = (0..n).map(|i| node("Sigmoid", &[&value(i)], &[&value(i + 1)], vec![])).collect();
        cases.add(expect, format!("chain-{name}"), net(&[1, 8], chain, vec![]));
        let web = (0..n).map(|i| node("Add", &[&value(i), &value(i / 2)], &[&value(i + 1)], vec![])).collect();
        cases.add(expect, format!("web-{name}"), net(&[1, 8], web, vec![]));
    }
    let wide: Vec<String> = (0..50_000).map(|i| format!("v{i}")).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    cases.add(
        Expect::Either,
        "outputs-of-a-split",
        net(
            &[1, 50_000],
            vec![node("Split", &["x"], &wide, vec![int("axis", 1), int("num_outputs", 50_000)]), node("Relu", &["v0"], &["y"], vec![])],
            vec![],
        ),
    );
    cases.add(Expect::Either, "operands-of-a-sum", net(&[1, 8], vec![node("Sum", &vec!["x"; 20_000], &["y"], vec![])], vec![]));
    cases.add(
        Expect::Either,
        "operands-of-a-concat",
        net(&[1, 8], vec![node("Concat", &vec!["x"; 20_000], &["y"], vec![int("axis", 1)])], vec![]),
    );
    cases.add(
        Expect::Error,
        "attributes",
        net(&[1, 8], vec![node("Relu", &["x"], &["y"], (0..50_000).map(|i| int(&format!("a{i}"), 1)).collect())], vec![]),
    );
    let mut many = net(&[1, 8], vec![node("Relu", &["x"], &["y"], vec![])], vec![]);
    if let Some(g) = &mut many.graph {
        g.initializer = (0..50_000).map(|i| halves(&format!("w{i}"), &[1])).collect();
    }
    cases.add(Expect::Ok, "initializers", many.clone());
    if let Some(g) = &mut many.graph {
        g.initializer.clear();
        g.input.extend((0..5000).map(|i| value(&format!("in{i}"), &[1, 8])));
    }
    cases.add(Expect::Error, "inputs", many);
    let long = "n".repeat(1 << 20);
    cases.add(
        Expect::Either,
        "name-of-1-mb",
        net(&[1, 8], vec![node("Relu", &["x"], &[&long], vec![]), node("Relu", &[&long], &["y"], vec![])], vec![]),
    );
}
