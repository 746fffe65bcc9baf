//! Layout changes of exporters cost nothing: transpositions around every operator, and inputs with channels last, leave no
//! step that reorders elements. (Rows that are copied into a border keep their order.)

use quernel::{
    Calibration, Compiler, Model, ModelOptions,
    ir::{Op, program::What},
};
use quernel_tests::{fixture, real_model};
use std::path::Path;

/// Compiles a model that transposes something and counts the steps that reorder elements.
fn moves(path: &Path, calibration: Calibration) -> usize {
    let model = Model::read(path, &ModelOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let graph = &model.imported.graph;
    assert!(graph.order.iter().any(|&n| matches!(graph.nodes[n].op, Op::Transpose { .. })), "{}", path.display());
    let compiled = Compiler { calibration, ..Compiler::default() }.compile(&model, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    let reorders = |what: &What| match what {
        What::Move { over, .. } => over.operands.iter().any(|o| o.steps.last().is_some_and(|&step| step != 1)),
        _ => false,
    };
    compiled.program().expect("lowered").steps.iter().filter(|s| reorders(&s.what)).count()
}

#[test]
fn transposes_around_operators_vanish() {
    assert_eq!(moves(&fixture("quantized/qdq_transposes.onnx"), Calibration::None), 0);
    assert_eq!(moves(&fixture("features/nhwc_model.onnx"), Calibration::Random(4)), 0);
}

#[test]
fn channels_last_inputs_are_read_as_they_are() {
    for name in ["cifar10_resnet8/ic_resnet8_qdq_int8.onnx", "micro_kws/micro_kws_m_static_qdq.onnx"] {
        if let Some(path) = real_model(name) {
            assert_eq!(moves(&path, Calibration::None), 0, "{name}");
        }
    }
}
