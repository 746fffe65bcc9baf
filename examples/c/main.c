/* Classifies handwritten digits with a network that was compiled to an object file.
 *
 *   digits digits_test.csv
 *
 * Every line of the file is one 8x8 image, 64 grey values 0..16, and its label. */
#include "digits.h"

#include <stdio.h>
#include <stdlib.h>

/* The arena is the network's only memory: static here, but a stack or a pool serves as well. */
static _Alignas(DIGITS_ARENA_ALIGN) unsigned char arena[DIGITS_ARENA_SIZE];

static int read_image(FILE *file, float image[DIGITS_INPUT_SIZE], int *label) {
  for (int i = 0; i < DIGITS_INPUT_SIZE; i++)
    if (fscanf(file, "%f,", &image[i]) != 1) return 0;
  return fscanf(file, "%d", label) == 1;
}

static int largest(const float *values, int count) {
  int best = 0;
  for (int i = 1; i < count; i++)
    if (values[i] > values[best]) best = i;
  return best;
}

int main(int argc, char **argv) {
  float image[DIGITS_INPUT_SIZE], logits[DIGITS_OUTPUT_SIZE];
  int label, right = 0, total = 0;
  FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
  if (!file) {
    fprintf(stderr, "usage: digits digits_test.csv\n");
    return 2;
  }
  while (read_image(file, image, &label)) {
    int status = digits_run(image, logits, arena);
    if (status != 0) {
      fprintf(stderr, "digits_run failed: %d\n", status);
      return 1;
    }
    right += largest(logits, DIGITS_OUTPUT_SIZE) == label;
    total++;
  }
  fclose(file);
  if (total == 0) {
    fprintf(stderr, "no images in %s\n", argv[1]);
    return 1;
  }
  printf("%d of %d digits right (%.2f %%)\n", right, total, 100.0 * right / total);
  /* Less than 95 % would mean that something is broken. */
  return 100 * right < 95 * total;
}
