//! A compiled model in a C program, with every tensor and the arena between two pages that may not be touched.

use super::process::{self, End, Limits};
use std::{fmt::Write, fs, path::Path, process::Command};

/// What the bytes of the inputs are: zeros, a NaN, a large number, and ordinary numbers.
const FILLS: &str = "0x00, 0xFF, 0x7F, 0x3E";

/// Bytes of arena and tensors above which a program is linked, but not run.
const MOST_BYTES: usize = 256 << 20;

/// Links `m.o` in `folder` with a program made from `m.h`, and runs it.
pub fn run(folder: &Path) -> Result<(), String> {
    let header = fs::read_to_string(folder.join("m.h")).map_err(|e| format!("m.h: {e}"))?;
    let source = source(count(&header, "M_INPUT_COUNT")?, count(&header, "M_OUTPUT_COUNT")?);
    fs::write(folder.join("main.c"), source).map_err(|e| e.to_string())?;
    let mut cc = Command::new("cc");
    cc.current_dir(folder).args(["-std=gnu11", "-O0", "-Wall", "-Werror", "main.c", "m.o", "-o", "main"]);
    let made = cc.output().map_err(|e| format!("cc: {e}"))?;
    if !made.status.success() {
        return Err(format!("does not link: {}", String::from_utf8_lossy(&made.stderr)));
    }
    let sizes = header.lines().filter(|l| l.contains("_BYTES ") || l.contains("_ARENA_SIZE "));
    if sizes.filter_map(|l| l.rsplit(' ').next()?.parse::<usize>().ok()).sum::<usize>() > MOST_BYTES {
        return Ok(());
    }
    let ended = process::run(&folder.join("main"), &[], &Limits::RUN)?;
    match ended.end {
        End::Status(0) => Ok(()),
        End::Status(code) => Err(format!("compiled code ended with {code}: {}", ended.text)),
        End::Signal(signal) => Err(format!("compiled code ended by signal {signal}")),
        End::TimedOut => Err("compiled code did not end in time".into()),
    }
}

fn count(header: &str, name: &str) -> Result<usize, String> {
    let prefix = format!("#define {name} ");
    let line = header.lines().find_map(|l| l.strip_prefix(&prefix)).ok_or_else(|| format!("m.h does not define {name}"))?;
    line.trim().parse().map_err(|e| format!("{name}: {e}"))
}

fn source(inputs: usize, outputs: usize) -> String {
    let key = |kind: &str, count: usize, i: usize| if count == 1 { format!("M_{kind}") } else { format!("M_{kind}_{i}") };
    let mut text = format!(
        r#"#define _GNU_SOURCE
#include "m.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* `size` bytes that end at a forbidden page (`at_end`), or start behind one. */
static unsigned char *guarded(size_t size, size_t align, int at_end, int fill) {{
  size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (size + page - 1) / page * page;
  unsigned char *all = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED || (inner && mprotect(all + page, inner, PROT_READ | PROT_WRITE))) exit(3);
  if (fill >= 0) memset(all + page, fill, inner);
  return all + page + (at_end ? (inner - size) / align * align : 0);
}}

int main(void) {{
  static const int fills[] = {{{FILLS}}};
  for (int f = 0; f < 4; f++)
    for (int at_end = 0; at_end < 2; at_end++) {{
      (void)f, (void)fills;
      const void *in[{}];
      void *out[{}];
"#,
        inputs.max(1),
        outputs.max(1)
    );
    for i in 0..inputs {
        let key = key("INPUT", inputs, i);
        let _ = writeln!(text, "      in[{i}] = guarded({key}_BYTES, {key}_SIZE ? {key}_BYTES / {key}_SIZE : 1, at_end, fills[f]);");
    }
    for i in 0..outputs {
        let key = key("OUTPUT", outputs, i);
        let _ = writeln!(text, "      out[{i}] = guarded({key}_BYTES, {key}_SIZE ? {key}_BYTES / {key}_SIZE : 1, at_end, -1);");
    }
    text += "      if (m_run_v(in, out, guarded(M_ARENA_SIZE, M_ARENA_ALIGN, at_end, -1)) != 0) return 1;\n    }\n  return 0;\n}\n";
    text
}
