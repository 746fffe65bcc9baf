//! Graphs that contradict themselves, and names that end what they are written into.

use super::{Cases, Expect, write::*};
use quernel::onnx::proto::{ModelProto, NodeProto, ValueInfoProto};

pub fn add(cases: &mut Cases) {
    wiring(cases);
    types(cases);
    names(cases);
}

fn wiring(cases: &mut Cases) {
    let relu = |from: &str, to: &str| node("Relu", &[from], &[to], vec![]);
    let of = |nodes: Vec<NodeProto>| net(&[1, 8], nodes, vec![]);
    cases.add(Expect::Error, "no-nodes", of(vec![]));
    cases.add(Expect::Error, "own-result", of(vec![node("Add", &["x", "y"], &["y"], vec![])]));
    cases.add(Expect::Error, "cycle", of(vec![node("Add", &["x", "b"], &["a"], vec![]), relu("a", "b"), relu("b", "y")]));
    cases.add(Expect::Error, "order", of(vec![relu("a", "y"), relu("x", "a")]));
    cases.add(Expect::Error, "undefined", of(vec![relu("ghost", "y")]));
    cases.add(Expect::Error, "defined-twice", of(vec![relu("x", "y"), relu("x", "y")]));
    cases.add(Expect::Error, "defines-an-input", of(vec![relu("x", "x"), relu("x", "y")]));
    cases.add(Expect::Error, "no-operand", of(vec![node("Relu", &[], &["y"], vec![])]));
    cases.add(Expect::Error, "empty-operand", of(vec![node("Relu", &[""], &["y"], vec![])]));
    cases.add(Expect::Error, "no-result", of(vec![node("Relu", &["x"], &[], vec![]), relu("x", "y")]));
    cases.add(Expect::Error, "two-operands", of(vec![node("Relu", &["x", "x"], &["y"], vec![])]));
    cases.add(Expect::Error, "two-results", of(vec![node("Relu", &["x"], &["a", "y"], vec![])]));
    cases.add(Expect::Error, "no-operator", of(vec![node("", &["x"], &["y"], vec![])]));
    cases.add(Expect::Error, "unknown-operator", of(vec![node("Wobble", &["x"], &["y"], vec![])]));
    cases.add(
        Expect::Error,
        "attribute-twice",
        net(&[1, 8], vec![node("Softmax", &["x"], &["y"], vec![int("axis", 0), int("axis", 1)])], vec![]),
    );
    cases.add(
        Expect::Error,
        "attribute-of-another-kind",
        net(&[1, 8], vec![node("Softmax", &["x"], &["y"], vec![float("axis", 1.0)])], vec![]),
    );
    cases.add(Expect::Error, "attribute-unknown", net(&[1, 8], vec![node("Relu", &["x"], &["y"], vec![int("speed", 1)])], vec![]));
    let with_outputs = |outputs: Vec<ValueInfoProto>| model_of(graph(vec![relu("x", "y")], vec![value("x", &[1, 8])], outputs, vec![]));
    cases.add(Expect::Error, "no-outputs", with_outputs(vec![]));
    cases.add(Expect::Error, "output-twice", with_outputs(vec![output("y"), output("y")]));
    cases.add(Expect::Error, "output-undefined", with_outputs(vec![output("z")]));
    cases.add(Expect::Either, "output-is-the-input", with_outputs(vec![output("x")]));
    cases.add(Expect::Error, "output-of-another-shape", with_outputs(vec![value("y", &[1, 9])]));
    cases.add(Expect::Error, "output-of-another-rank", with_outputs(vec![value("y", &[8])]));
    cases.add(Expect::Error, "output-of-another-type", with_outputs(vec![typed("y", &[1, 8], INT64)]));
    let twice = model_of(graph(vec![relu("x", "y")], vec![value("x", &[1, 8]), value("x", &[1, 8])], vec![output("y")], vec![]));
    cases.add(Expect::Error, "input-twice", twice);
    let mut none: ModelProto = of(vec![relu("x", "y")]);
    none.graph = None;
    cases.add(Expect::Error, "none", none);
    let branch = |to: &str| graph(vec![relu("x", to)], vec![], vec![output(to)], vec![]);
    let choice = |condition: &str, branches: Vec<&str>| {
        let bodies = branches.iter().zip(["then_branch", "else_branch"]).map(|(to, name)| body(name, branch(to))).collect();
        net(&[1, 8], vec![node("If", &[condition], &["y"], bodies)], vec![flag("yes", true)])
    };
    cases.add(Expect::Ok, "if", choice("yes", vec!["a", "b"]));
    cases.add(Expect::Error, "if-of-floats", choice("x", vec!["a", "b"]));
    cases.add(Expect::Error, "if-without-branches", choice("yes", vec![]));
}

fn types(cases: &mut Cases) {
    for elem in [0, 8, 14, 17, 23, 99, -1, i32::MIN] {
        let made = model_of(graph(vec![node("Relu", &["x"], &["y"], vec![])], vec![typed("x", &[1, 8], elem)], vec![output("y")], vec![]));
        cases.add(Expect::Error, format!("input-of-type-{elem}"), made);
        cases.add(
            Expect::Error,
            format!("cast-to-{elem}"),
            net(&[1, 8], vec![node("Cast", &["x"], &["y"], vec![int("to", elem.into())])], vec![]),
        );
    }
    for (i, dims) in [&[1, 0][..], &[0], &[1, -8], &[1, i64::MIN], &[1; 9], &[1; 1000]].iter().enumerate() {
        // The first two have no elements, which is no fault.
        cases.add(
            if i < 2 { Expect::Ok } else { Expect::Error },
            format!("input-of-shape-{i}"),
            net(dims, vec![node("Relu", &["x"], &["y"], vec![])], vec![]),
        );
    }
    for (op, dims) in [("GridSample", &[1, 2, 0, 4][..]), ("Resize", &[1, 2, 0, 4]), ("MaxPool", &[1, 0, 4, 4]), ("LSTM", &[0, 1, 4])] {
        let (held, inputs) =
            (vec![floats("w", &[1, 2, 2, 2], &[0.5; 8])], if op == "Resize" { vec!["x", "", "w"] } else { vec!["x", "w"] });
        cases.add(Expect::Error, format!("no-elements-{op}"), net(dims, vec![node(op, &inputs, &["y"], vec![])], held));
    }
    let bare = ValueInfoProto { name: Some("x".into()), r#type: None };
    cases.add(
        Expect::Error,
        "input-without-type",
        model_of(graph(vec![node("Relu", &["x"], &["y"], vec![])], vec![bare], vec![output("y")], vec![])),
    );
    cases.add(Expect::Ok, "scalar", net(&[], vec![node("Relu", &["x"], &["y"], vec![])], vec![]));
    for (i, (a, b)) in [(&[1, 8][..], &[7][..]), (&[2, 3], &[3, 2]), (&[1, 8, 1], &[2, 7, 1])].iter().enumerate() {
        cases.add(Expect::Error, format!("broadcast-{i}"), net(a, vec![node("Add", &["x", "w"], &["y"], vec![])], vec![halves("w", b)]));
    }
    cases.add(
        Expect::Error,
        "product-of-shapes",
        net(&[1, 8], vec![node("MatMul", &["x", "w"], &["y"], vec![])], vec![halves("w", &[7, 2])]),
    );
    cases.add(Expect::Error, "product-of-scalars", net(&[], vec![node("MatMul", &["x", "x"], &["y"], vec![])], vec![]));
    cases.add(Expect::Error, "integers-as-weights", {
        net(&[1, 1, 4, 4], vec![node("Conv", &["x", "w"], &["y"], vec![])], vec![raw("w", INT32, &[1, 1, 1, 1], vec![1, 0, 0, 0])])
    });
}

/// Names end up in the header, in the report, in symbols and on the terminal.
fn names(cases: &mut Cases) {
    for (i, name) in [
        "*/ int main(void) { return 1; } /*",
        "\"; system(\"true\"); \"",
        "a\nb",
        "a\0b",
        "\\",
        "??/",
        "%s%n",
        "\u{202e}gpj",
        "\u{1b}[2J",
        "int",
        "zwölf/Ψ",
        "../../../etc/passwd",
        "#define M_RUN",
        " ",
    ]
    .iter()
    .enumerate()
    {
        let inner = format!("{name} inside");
        let nodes = vec![
            NodeProto { name: Some((*name).into()), ..node("Relu", &[name], &[&inner], vec![]) },
            node("Sigmoid", &[&inner], &["y"], vec![]),
        ];
        let mut made = model_of(graph(nodes, vec![value(name, &[1, 8])], vec![output("y")], vec![]));
        if let Some(g) = &mut made.graph {
            g.name = Some((*name).into());
        }
        made.producer_name = Some((*name).into());
        cases.add(Expect::Ok, format!("name-{i}"), made);
    }
    let nodes = vec![node("Relu", &["a b"], &["y"], vec![]), node("Relu", &["a_b"], &["z"], vec![])];
    cases.add(
        Expect::Ok,
        "names-alike",
        model_of(graph(nodes, vec![value("a b", &[1, 8]), value("a_b", &[1, 8])], vec![output("y"), output("z")], vec![])),
    );
}
