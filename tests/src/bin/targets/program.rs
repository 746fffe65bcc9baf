//! The C program that runs networks, and the bytes it reads.

use crate::{Network, OFFSET, PRIME};
use quernel::ir::TensorTy;

/// FNV-1a of the outputs, as the C program takes it: little-endian, and the bits of a NaN, which are nobody's promise, as
/// those of one NaN.
pub fn hash<'a>(outputs: impl IntoIterator<Item = (&'a TensorTy, &'a [u8])>) -> u64 {
    let mut hash = OFFSET;
    let mut add = |bytes: &[u8]| bytes.iter().for_each(|b| hash = (hash ^ u64::from(*b)).wrapping_mul(PRIME));
    for (ty, bytes) in outputs {
        if !ty.elem.is_f32() {
            add(bytes);
            continue;
        }
        for word in bytes.chunks_exact(4) {
            let nan = f32::from_le_bytes([word[0], word[1], word[2], word[3]]).is_nan();
            add(if nan { &[0, 0, 0xc0, 0x7f] } else { word });
        }
    }
    hash
}

/// The inputs of a network in the byte order of the target.
pub fn data(network: &Network, big: bool) -> Vec<u8> {
    let ports = &network.compiled.program.as_ref().expect("lowered").inputs;
    let mut all = Vec::new();
    for (port, bytes) in ports.iter().zip(&network.inputs) {
        let width = port.ty.bytes() / port.ty.count().max(1);
        for element in bytes.chunks(width.max(1)) {
            if big { all.extend(element.iter().rev()) } else { all.extend(element) }
        }
    }
    all
}

/// A program that runs each network on its part of a file and prints the hashes of all output elements, little-endian
/// on every machine.
pub fn source(networks: &[Network]) -> String {
    let mut out = String::from(
        r#"#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static unsigned long long hash;
static void add(const unsigned char *p, size_t count, size_t width) {
  const unsigned one = 1;
  int little = *(const unsigned char *)&one;
  for (size_t i = 0; i < count; i++)
    for (size_t b = 0; b < width; b++) hash = (hash ^ p[i * width + (little ? b : width - 1 - b)]) * 0x100000001b3ull;
}
static void add_floats(unsigned char *p, size_t count) {
  for (size_t i = 0; i < count; i++) {
    unsigned bits;
    memcpy(&bits, p + 4 * i, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) bits = 0x7fc00000;
    memcpy(p + 4 * i, &bits, 4);
  }
  add(p, count, 4);
}
/* Registers of floats that a call keeps: filled before one, compared behind it. */
#if defined __riscv && defined __riscv_flen
#define KEPT(R) R("fs0") R("fs1") R("fs2") R("fs3") R("fs4") R("fs5") R("fs6") R("fs7") R("fs8") R("fs9") R("fs10") R("fs11")
#define FILL(r) __asm__ volatile("fmv.d.x " r ", %0" : : "r"(0x5a5a5a5a5a5a5a5a) : r);
#define TEST(r) __asm__ volatile("fmv.x.d %0, " r : "=r"(now)); lost |= now != 0x5a5a5a5a5a5a5a5a;
#elif defined __aarch64__
#define KEPT(R) R("8") R("9") R("10") R("11") R("12") R("13") R("14") R("15")
#define FILL(r) __asm__ volatile("fmov d" r ", %0" : : "r"(0x5a5a5a5a5a5a5a5aull) : "v" r);
#define TEST(r) __asm__ volatile("fmov %0, d" r : "=r"(now)); lost |= now != 0x5a5a5a5a5a5a5a5aull;
#elif defined __s390x__
#define KEPT(R) R("8") R("9") R("10") R("11") R("12") R("13") R("14") R("15")
#define FILL(r) __asm__ volatile("ldgr %%f" r ", %0" : : "r"(0x5a5a5a5a5a5a5a5aull) : "f" r);
#define TEST(r) __asm__ volatile("lgdr %0, %%f" r : "=r"(now)); lost |= now != 0x5a5a5a5a5a5a5a5aull;
#elif defined __x86_64__ && defined _WIN32
#define KEPT(R) R("6") R("7") R("8") R("9") R("10") R("11") R("12") R("13") R("14") R("15")
static const unsigned long long both[2] = {0x5a5a5a5a5a5a5a5aull, 0x5a5a5a5a5a5a5a5aull};
static unsigned long long found[2];
#define FILL(r) __asm__ volatile("movups %0, %%xmm" r : : "m"(both) : "xmm" r);
#define TEST(r) __asm__ volatile("movups %%xmm" r ", %0" : "=m"(found)); lost |= memcmp(both, found, sizeof both) != 0;
#else
#define KEPT(R)
#endif
typedef int run_v(const void *const *, void *const *, void *);
static int lost;
static __attribute__((noinline)) int call(run_v *run, void **in, void **out, void *arena) {
  unsigned long long now = 0;
  int result;
  KEPT(FILL)
  result = run((const void *const *)in, out, arena);
  KEPT(TEST)
  (void)now;
  return result;
}
static void *space(size_t bytes) {
  unsigned char *p = malloc(bytes + 128);
  if (!p) exit(3);
  p += 64 - (size_t)p % 64;
  return memset(p, 0xa5, bytes + 1);
}
"#,
    );
    let programs: Vec<_> = networks.iter().map(|n| n.compiled.program.as_ref().expect("lowered")).collect();
    for n in networks {
        out += &format!("#include \"{}.h\"\n", n.compiled.name);
    }
    out += "int main(int argc, char **argv) {\n  FILE *f = argc == 2 ? fopen(argv[1], \"rb\") : NULL;\n  if (!f) return 2;\n";
    for (n, p) in networks.iter().zip(programs) {
        let name = &n.compiled.name;
        let upper = name.to_uppercase();
        out += "  {\n    void *in[64], *out[64];\n";
        for (i, port) in p.inputs.iter().enumerate() {
            let bytes = port.ty.bytes();
            out += &format!("    in[{i}] = space({bytes});\n    if (fread(in[{i}], 1, {bytes}, f) != {bytes}) return 4;\n");
        }
        for (i, port) in p.outputs.iter().enumerate() {
            out += &format!("    out[{i}] = space({});\n", port.ty.bytes());
        }
        out += &format!("    if (call({name}_run_v, in, out, space({upper}_ARENA_SIZE)) != 0) return 5;\n");
        out += "    hash = 0xcbf29ce484222325ull;\n";
        for (i, port) in p.outputs.iter().enumerate() {
            let count = port.ty.count();
            out += &match port.ty.elem.is_f32() {
                true => format!("    add_floats(out[{i}], {count});\n"),
                false => format!("    add(out[{i}], {count}, {});\n", port.ty.bytes() / count.max(1)),
            };
        }
        // Two halves: not every C library prints 64 bits under this format.
        out += "    printf(\"%08lx%08lx\\n\", (unsigned long)(hash >> 32), (unsigned long)(hash & 0xffffffff));\n  }\n";
    }
    out + "  return lost ? 6 : 0;\n}\n"
}
