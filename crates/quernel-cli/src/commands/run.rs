use super::setup;
use crate::{args::Run, messages::Messages};
use quernel::{
    Failure, Progress, artifacts, encode_for, interp,
    ir::Tensor,
    outputs,
    quant::{Samples, to_npz},
};

pub fn run(a: &Run, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let options = setup::samples(&a.compiling.samples)?;
    let samples = Samples::open_with(&a.input, &model.inputs(), &options).map_err(Failure)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    messages.remarks(&compiled.remarks, false);
    let program = compiled.program()?;
    let mut jit = compiled.jit()?;
    let mut all: Vec<Vec<(String, Tensor)>> = Vec::new();
    for i in 0..samples.len() {
        let inputs = encode_for(program, &samples.get(i)?)?;
        let bytes: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
        let out = if a.interpret { interp::run_program(program, &bytes)? } else { jit.run(&bytes)? };
        all.push(outputs(program, out)?);
        messages.progress(Progress { what: "running", done: i + 1, of: samples.len() });
    }
    if let Some(path) = &a.output {
        let npz = to_npz(&all)?;
        artifacts::apart([path.as_path()], &[setup::read(&a.compiling, &model, &compiler), vec![a.input.clone()]].concat())?;
        artifacts::save(&[(path, &npz)])?;
        return setup::print(&format!("wrote {}: {} samples\n", path.display(), samples.len()));
    }
    for outputs in &all {
        if let Some((_, first)) = outputs.first() {
            let shown: Vec<String> = match (first.to_f32(), first.to_ints()) {
                (Some(floats), _) => floats.iter().map(f32::to_string).collect(),
                (None, Some(ints)) => ints.iter().map(i64::to_string).collect(),
                (None, None) => first.to_f64().unwrap_or_default().iter().map(f64::to_string).collect(),
            };
            setup::print(&format!("{}\n", shown.join(" ")))?;
        }
    }
    Ok(())
}
