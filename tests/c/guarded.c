/* Runs a model with input, output and arena each between two pages that may not be touched, under every rounding mode
 * of the caller, and prints the output bytes once: they have to be the same every time.
 *
 *   guarded input.bin
 */
#define _GNU_SOURCE
#include HEADER
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* `size` bytes that end at a forbidden page (`at_end`), or start behind one. */
static unsigned char *guarded(size_t size, size_t align, int at_end) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t inner = (size + page - 1) / page * page;
  unsigned char *all = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED || mprotect(all + page, inner, PROT_READ | PROT_WRITE)) exit(3);
  size_t room = at_end ? (inner - size) / align * align : 0;
  memset(all + page, 0xA5, inner);
  return all + page + room;
}

int main(int argc, char **argv) {
  static const int modes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_UPWARD, FE_DOWNWARD};
  size_t in_bytes = sizeof(float) * (size_t)RUN_INPUT_SIZE, out_bytes = sizeof(float) * (size_t)RUN_OUTPUT_SIZE;
  unsigned char *first = malloc(out_bytes);
  int have = 0;
  if (argc != 2 || !first) return 2;
  for (int at_end = 0; at_end < 2; at_end++)
    for (int m = 0; m < 4; m++) {
      unsigned char *in = guarded(in_bytes, sizeof(float), at_end), *out = guarded(out_bytes, sizeof(float), at_end);
      unsigned char *arena = guarded(RUN_ARENA_SIZE, RUN_ARENA_ALIGN, at_end);
      FILE *f = fopen(argv[1], "rb");
      if (!f || fread(in, 1, in_bytes, f) != in_bytes) return 2;
      fclose(f);
      fesetround(modes[m]);
      int status = run_run((const float *)(void *)in, (float *)(void *)out, arena);
      if (fegetround() != modes[m]) return fprintf(stderr, "the caller's rounding mode was changed\n"), 1;
      fesetround(FE_TONEAREST);
      if (status) return fprintf(stderr, "status %d\n", status), 1;
      if (have && memcmp(first, out, out_bytes)) return fprintf(stderr, "rounding mode %d changes the output\n", m), 1;
      memcpy(first, out, out_bytes);
      have = 1;
    }
  /* Bad calls are refused. */
  float *in = malloc(in_bytes), *out = malloc(out_bytes);
  unsigned char *arena = aligned_alloc(RUN_ARENA_ALIGN, ((size_t)RUN_ARENA_SIZE / RUN_ARENA_ALIGN + 2) * RUN_ARENA_ALIGN);
  if (!in || !out || !arena) return 3;
  if (run_run(NULL, out, arena) >= 0 || run_run(in, NULL, arena) >= 0 || run_run(in, out, NULL) >= 0 || run_run(in, out, arena + 1) >= 0)
    return fprintf(stderr, "a bad call was accepted\n"), 1;
  return fwrite(first, 1, out_bytes, stdout) != out_bytes;
}
