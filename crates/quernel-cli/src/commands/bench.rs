use super::setup;
use crate::{
    args::Bench,
    messages::Messages,
    tables::{count, shortened, table},
};
use quernel::{Failure, bench};
use std::time::Duration;

pub fn run(a: &Bench, messages: &Messages) -> Result<(), Failure> {
    let compiler = setup::compiler(&a.compiling)?;
    let model = setup::model(&a.compiling)?;
    let compiled = compiler.compile(&model, &mut |p| messages.progress(p))?;
    messages.remarks(&compiled.remarks, false);
    let b = bench(&compiled, &model.inputs(), Duration::from_millis(a.milliseconds))?;
    if a.json {
        return setup::print(&format!("{}\n", b.to_json()));
    }
    let rate = |macs: u64, ns: u64| if macs == 0 { String::new() } else { format!("{:.1}", macs as f64 / ns.max(1) as f64) };
    let share = |macs: u64, ns: u64| match b.limit {
        Some(limit) if macs > 0 => format!("{:.0}", 100.0 * macs as f64 / ns.max(1) as f64 / limit),
        _ => String::new(),
    };
    let total: u64 = b.steps.iter().map(|s| s.median_ns).sum();
    let rows = b.steps.iter().map(|s| {
        vec![
            shortened(&s.layer, 40),
            s.what.to_string(),
            if s.calls > 1 { format!("{} ({} x)", s.kernel, s.calls) } else { s.kernel.clone() },
            format!("{:.2}", s.median_ns as f64 / 1000.0),
            format!("{:.1}", 100.0 * s.median_ns as f64 / total.max(1) as f64),
            count(s.macs),
            rate(s.macs, s.median_ns),
            share(s.macs, s.median_ns),
            s.cycles.filter(|_| s.predicted_cycles.is_some()).map_or_else(String::new, count),
            s.predicted_cycles.map_or_else(String::new, count),
        ]
    });
    let mut text = format!(
        "{}\n",
        table(&["layer", "step", "kernel", "us", "%", "MACs", "GMAC/s", "% of limit", "cycles", "predicted"], &[3, 4, 5, 6, 7, 8, 9], rows)
    );
    text += &format!(
        "{}: median {:.2} us, fastest {:.2} us of {} runs, {} GMAC/s\n",
        model.file,
        b.median_ns as f64 / 1000.0,
        b.min_ns as f64 / 1000.0,
        b.runs,
        rate(b.macs, b.median_ns)
    );
    text += &match b.measured_uj {
        Some(uj) => format!("energy of a run by the counters of the processor, idle cores included: {uj:.2} uJ\n"),
        None => format!("energy of a run by a model of 45 nm (this machine shows no counters): {:.2} uJ\n", b.energy_model.total_uj()),
    };
    if let Some(limit) = b.limit {
        text += &format!("registers alone reach {limit:.1} GMAC/s here: {} % of it\n", share(b.macs, b.median_ns));
    }
    setup::print(&text)
}
