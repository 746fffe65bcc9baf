/* Networks with several inputs and outputs, and one with a state.
 *
 * Two inputs and three outputs are parameters of one function, in the order of the model. A network keeps nothing
 * between calls: a state is an output that the caller hands in again. */
#include "cell.h"
#include "detector.h"

#include <stdio.h>
#include <string.h>

#define LARGER(a, b) ((a) > (b) ? (a) : (b))

/* One arena serves both networks: nothing in it outlives a call. */
static _Alignas(DETECTOR_ARENA_ALIGN) unsigned char arena[LARGER(DETECTOR_ARENA_SIZE, CELL_ARENA_SIZE)];

static void print(const char *name, const float *values, int count) {
  printf("%s", name);
  for (int i = 0; i < count; i++) printf(" %.6f", (double)values[i]);
  printf("\n");
}

static int detect(void) {
  static float image[DETECTOR_INPUT_0_SIZE], vector[DETECTOR_INPUT_1_SIZE];
  static float classes[DETECTOR_OUTPUT_0_SIZE], box[DETECTOR_OUTPUT_1_SIZE], map[DETECTOR_OUTPUT_2_SIZE];
  static float again[DETECTOR_OUTPUT_2_SIZE];
  for (int i = 0; i < DETECTOR_INPUT_0_SIZE; i++) image[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
  for (int i = 0; i < DETECTOR_INPUT_1_SIZE; i++) vector[i] = (float)i / 4.0f - 0.5f;
  if (detector_run(image, vector, classes, box, map, arena) != 0) return 1;
  print(DETECTOR_OUTPUT_0_NAME, classes, DETECTOR_OUTPUT_0_SIZE);
  print(DETECTOR_OUTPUT_1_NAME, box, DETECTOR_OUTPUT_1_SIZE);
  print(DETECTOR_OUTPUT_2_NAME, map, 8);
  /* The same through arrays of pointers, for code that does not know the model when it is compiled. */
  const void *inputs[DETECTOR_INPUT_COUNT] = {image, vector};
  void *outputs[DETECTOR_OUTPUT_COUNT] = {classes, box, again};
  return detector_run_v(inputs, outputs, arena) != 0 || memcmp(map, again, sizeof map) != 0;
}

static int remember(void) {
  float x[CELL_INPUT_0_SIZE], y[CELL_OUTPUT_0_SIZE];
  /* Two buffers that change places: an output must not overlap an input. */
  float states[2][CELL_INPUT_1_SIZE] = {{0}};
  for (int step = 0; step < 5; step++) {
    for (int i = 0; i < CELL_INPUT_0_SIZE; i++) x[i] = (float)((step * 6 + i) * 29 % 23) / 11.0f - 1.0f;
    if (cell_run(x, states[step % 2], y, states[(step + 1) % 2], arena) != 0) return 1;
    print(CELL_OUTPUT_0_NAME, y, CELL_OUTPUT_0_SIZE);
  }
  return 0;
}

int main(void) {
  int bad = detect() || remember();
  if (bad) fprintf(stderr, "a network failed\n");
  return bad;
}
