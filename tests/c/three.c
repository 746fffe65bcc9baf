/* Three models in one program. */
#include "one.h"
#include "two.h"
#include "three.h"
#include <stdio.h>

static _Alignas(64) unsigned char arena[ONE_ARENA_SIZE + TWO_ARENA_SIZE + THREE_ARENA_SIZE];
static float in[ONE_INPUT_SIZE], a[ONE_OUTPUT_SIZE], b[TWO_OUTPUT_SIZE], c[THREE_OUTPUT_SIZE];

int main(void) {
  for (int i = 0; i < ONE_INPUT_SIZE; i++) in[i] = (float)(i % 17);
  if (one_run(in, a, arena) || two_run(in, b, arena) || three_run(in, c, arena)) return 1;
  for (int i = 0; i < ONE_OUTPUT_SIZE; i++)
    if (a[i] != b[i] || a[i] != c[i]) return 1;
  return printf("%g\n", (double)a[0]) < 0;
}
