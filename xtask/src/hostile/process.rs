//! A program under limits: how it ended and what it wrote.

use std::{
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a process may use.
pub struct Limits {
    /// Address space in KiB.
    memory: u64,
    /// Seconds of all its threads together.
    seconds: u64,
}

impl Limits {
    /// 512 MiB and 5 s.
    pub const COMPILE: Self = Self { memory: 512 << 10, seconds: 5 };
    /// The same where times are not to be judged, on a machine that others use.
    pub const UNTIMED: Self = Self { seconds: 15, ..Self::COMPILE };
    /// Compiled code: its arena, and time for one that multiplies much.
    pub const RUN: Self = Self { memory: 64 << 20, seconds: 20 };
}

/// A wall clock stands beside the limit of CPU time, for processes that wait. It is wide, since others may keep the CPU.
const PATIENCE: u64 = 6;
/// Bytes of output that are kept.
const OUTPUT: u64 = 1 << 20;

pub enum End {
    Status(i32),
    Signal(i32),
    TimedOut,
}

pub struct Ended {
    pub end: End,
    /// Both outputs.
    pub text: String,
    /// CPU time is not to be had without more; this is the wall clock.
    pub seconds: f64,
}

/// Runs a program to its end, or to its limit.
pub fn run(program: &Path, arguments: &[&str], limits: &Limits) -> Result<Ended, String> {
    let script = format!("ulimit -c 0; ulimit -v {}; ulimit -t {}; exec \"$0\" \"$@\" 2>&1", limits.memory, limits.seconds);
    let start = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .arg(program)
        .args(arguments)
        .env("RAYON_NUM_THREADS", "2")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("sh: {e}"))?;
    let out = child.stdout.take().ok_or("no output")?;
    let reader = std::thread::spawn(move || {
        let (mut bytes, mut out) = (Vec::new(), out);
        let _ = out.by_ref().take(OUTPUT).read_to_end(&mut bytes);
        // The rest is read so that the process does not wait.
        let _ = std::io::copy(&mut out, &mut std::io::sink());
        bytes
    });
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            break status;
        }
        if start.elapsed() > Duration::from_secs(limits.seconds * PATIENCE) {
            late = true;
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&reader.join().map_err(|_| "the reader of the output died")?).into_owned();
    Ok(Ended { end: end(status, late), text, seconds })
}

#[cfg(unix)]
fn end(status: std::process::ExitStatus, late: bool) -> End {
    use std::os::unix::process::ExitStatusExt;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    match (status.code(), status.signal()) {
        _ if late => End::TimedOut,
        (_, Some(SIGXCPU | SIGKILL)) => End::TimedOut,
        (_, Some(signal)) => End::Signal(signal),
        (code, _) => End::Status(code.unwrap_or(-1)),
    }
}

#[cfg(not(unix))]
fn end(status: std::process::ExitStatus, late: bool) -> End {
    if late { End::TimedOut } else { End::Status(status.code().unwrap_or(-1)) }
}

/// Whether a process died because memory was not to be had.
pub fn out_of_memory(text: &str) -> bool {
    text.contains("memory allocation of") || text.contains("annot allocate memory")
}
