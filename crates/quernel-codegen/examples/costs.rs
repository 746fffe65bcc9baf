//! Fits the cost model of the AVX-512 layers to this machine: `costs CPU [FILE]` shows how well it does and writes the
//! table. `cargo xtask costs` runs it.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let cpu = arguments.first().map_or("this machine", String::as_str);
    let fit = match quernel_codegen::calibrate::fit(cpu) {
        Ok(fit) => fit,
        Err(why) => {
            eprintln!("{why}");
            return std::process::ExitCode::FAILURE;
        }
    };
    println!("{:<28} {:<34} {:>10} {:>10} {:>7}", "layer", "kernel", "cycles", "fitted", "error");
    let (mut squares, mut lost, mut layers) = (0.0, [0.0; 2], 0);
    for s in &fit.samples {
        let error = s.fitted / s.measured - 1.0;
        squares += error * error;
        let best = fit.samples.iter().filter(|o| o.layer == s.layer).map(|o| o.measured).fold(f64::INFINITY, f64::min);
        for (lost, chosen) in lost.iter_mut().zip(s.chosen) {
            *lost += if chosen { s.measured / best - 1.0 } else { 0.0 };
        }
        layers += usize::from(s.chosen[1]);
        let mark = if s.measured == best { "*" } else { "" };
        println!("{:<28} {:<34} {:>10.0} {:>10.0} {:>6.1}% {mark}", s.layer, s.kernel, s.measured, s.fitted, 100.0 * error);
    }
    let n = layers.max(1) as f64;
    println!("root of the mean squared error: {:.1} %", 100.0 * (squares / fit.samples.len().max(1) as f64).sqrt());
    println!(
        "time lost to wrong choices: {:.2} % with the table of this build, {:.2} % with this fit",
        100.0 * lost[0] / n,
        100.0 * lost[1] / n
    );
    for (name, cycles) in &fit.cycles {
        println!("{name:<16} {cycles:>8.2}");
    }
    if let Some(file) = arguments.get(1)
        && let Err(why) = std::fs::write(file, &fit.table)
    {
        eprintln!("{file}: {why}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
