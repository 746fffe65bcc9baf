use super::setup;
use crate::{
    args::Compare,
    messages::Messages,
    tables::{shortened, table},
};
use quernel::{
    Failure, LayerError, compare,
    ir::{Code, Diagnostic},
    quant::{SampleOptions, Samples},
    to_json,
};

pub fn run(a: &Compare, messages: &Messages) -> Result<(), Failure> {
    if a.samples == 0 {
        return Err(Diagnostic::new(Code::BadOption, "--samples has to be at least 1").into());
    }
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let all = SampleOptions { rows: None, ..setup::samples(&a.compiling.samples)? };
    let samples = Samples::open_with(&a.test, &model.inputs(), &all).map_err(Failure)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    messages.remarks(&compiled.remarks, false);
    let layers = compare(&compiled, &samples.slice(0..a.samples.min(samples.len())), !a.quick, &mut |p| messages.progress(p))?;
    if a.json {
        return setup::print(&format!("{}\n", to_json(&layers)));
    }
    if layers.is_empty() {
        return setup::print("no layer computes in integers: there is nothing to compare\n");
    }
    let db = |x: f64| if x.is_infinite() { "equal".into() } else { format!("{x:.1}") };
    let row = |l: &LayerError| {
        vec![
            shortened(&l.layer, 40),
            l.operator.clone(),
            db(l.local_db),
            db(l.accumulated_db),
            l.alone_db.map_or_else(String::new, db),
            format!("{:.5}", l.cosine),
            format!("{:.2}", l.clipped_percent),
            l.values.name().into(),
            l.weights.map_or("", |w| w.name()).into(),
        ]
    };
    let header = ["layer", "operator", "local dB", "total dB", "alone dB", "cosine", "clipped %", "values", "weights"];
    let mut text = format!("{}\n", table(&header, &[2, 3, 4, 5, 6], layers.iter().map(row)));
    let mut ranked: Vec<&LayerError> = layers.iter().filter(|l| l.alone_db.is_some_and(f64::is_finite)).collect();
    ranked.sort_by(|a, b| a.alone_db.unwrap_or(f64::INFINITY).total_cmp(&b.alone_db.unwrap_or(f64::INFINITY)));
    if let Some(worst) = ranked.first() {
        text += &format!(
            "most to blame: {} alone leaves the network {:.1} dB; give it more bits, or `float`, in a bits.toml\n",
            worst.layer,
            worst.alone_db.unwrap_or(f64::INFINITY)
        );
    }
    setup::print(&text)
}
