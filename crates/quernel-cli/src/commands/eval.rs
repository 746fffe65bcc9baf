use super::setup;
use crate::{args::Eval, messages::Messages};
use quernel::{
    Failure, check_against_interpreter, evaluate,
    quant::{SampleOptions, Samples},
};

pub fn run(a: &Eval, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let options = SampleOptions { rows: a.test_rows.clone(), ..setup::samples(&a.compiling.samples)? };
    let samples = Samples::open_with(&a.test, &model.inputs(), &options).map_err(Failure)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    messages.remarks(&compiled.remarks, false);
    let checked = samples.slice(0..a.check.min(samples.len()));
    let equal = check_against_interpreter(&compiled, &checked, &mut |p| messages.progress(p))?;
    let mut e = evaluate(&model, &compiled, &samples, &mut |p| messages.progress(p))?;
    e.equal_to_interpreter = equal;
    if a.json {
        return setup::print(&format!("{}\n", e.to_json()));
    }
    let mut text = String::new();
    if equal > 0 {
        text.push_str(&format!("compiled code equals the interpreter byte for byte on {equal} samples\n"));
    }
    text.push_str(&format!("{} samples\n", e.samples));
    if let Some(why) = &e.labels_unused {
        text.push_str(&format!("no accuracy: {why}\n"));
    }
    if let (Some(float), Some(compiled)) = (e.float_top1, e.compiled_top1) {
        text.push_str(&format!("top-1 float {float:.2} %, compiled {compiled:.2} % ({:+.2} points)\n", compiled - float));
    }
    if let (Some(float), Some(compiled)) = (e.float_top5, e.compiled_top5) {
        text.push_str(&format!("top-5 float {float:.2} %, compiled {compiled:.2} % ({:+.2} points)\n", compiled - float));
    }
    if let Some(db) = e.logits_sqnr_db {
        text.push_str(&format!("before the softmax: SQNR {db:.1} dB\n"));
    }
    text.push_str(&format!("same answer {:.2} %, output SQNR {:.1} dB, largest difference {:.4}\n", e.agreement, e.sqnr_db, e.max_abs));
    setup::print(&text)
}
