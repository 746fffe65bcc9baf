// The networks of ../c/several.c, and the digits of ../c/main.c, from C++17.
//
//   networks digits_test.csv
//
// A network is a function and the sizes of its arrays; what C++ adds is an arena that a type owns.
#include "cell.h"
#include "detector.h"
#include "digits.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

template <std::size_t Size, std::size_t Align>
struct Arena {
  alignas(Align) std::array<unsigned char, Size> bytes;
  void *data() { return bytes.data(); }
};

static void check(int status) {
  if (status != 0) throw std::runtime_error("a network returned " + std::to_string(status));
}

class Digits {
  Arena<DIGITS_ARENA_SIZE, DIGITS_ARENA_ALIGN> arena;

public:
  std::array<float, DIGITS_OUTPUT_SIZE> operator()(const std::array<float, DIGITS_INPUT_SIZE> &image) {
    std::array<float, DIGITS_OUTPUT_SIZE> logits;
    check(digits_run(image.data(), logits.data(), arena.data()));
    return logits;
  }
};

struct Found {
  std::array<float, DETECTOR_OUTPUT_0_SIZE> classes;
  std::array<float, DETECTOR_OUTPUT_1_SIZE> box;
  std::array<float, DETECTOR_OUTPUT_2_SIZE> map;
};

class Detector {
  Arena<DETECTOR_ARENA_SIZE, DETECTOR_ARENA_ALIGN> arena;

public:
  Found operator()(const std::array<float, DETECTOR_INPUT_0_SIZE> &image,
                   const std::array<float, DETECTOR_INPUT_1_SIZE> &vector) {
    Found found;
    check(detector_run(image.data(), vector.data(), found.classes.data(), found.box.data(), found.map.data(), arena.data()));
    return found;
  }
};

// The object keeps nothing between calls; here a type keeps the state.
class Cell {
  Arena<CELL_ARENA_SIZE, CELL_ARENA_ALIGN> arena;
  std::array<float, CELL_INPUT_1_SIZE> state{};

public:
  std::array<float, CELL_OUTPUT_0_SIZE> operator()(const std::array<float, CELL_INPUT_0_SIZE> &x) {
    std::array<float, CELL_OUTPUT_0_SIZE> y;
    std::array<float, CELL_OUTPUT_1_SIZE> next;
    check(cell_run(x.data(), state.data(), y.data(), next.data(), arena.data()));
    state = next;
    return y;
  }
};

static void print(const char *name, const float *values, std::size_t count) {
  std::printf("%s", name);
  for (std::size_t i = 0; i < count; i++) std::printf(" %.6f", static_cast<double>(values[i]));
  std::printf("\n");
}

static void several() {
  std::array<float, DETECTOR_INPUT_0_SIZE> image;
  std::array<float, DETECTOR_INPUT_1_SIZE> vector;
  for (std::size_t i = 0; i < image.size(); i++) image[i] = static_cast<float>(i * 37 % 101) / 50.0f - 1.0f;
  for (std::size_t i = 0; i < vector.size(); i++) vector[i] = static_cast<float>(i) / 4.0f - 0.5f;
  auto detector = std::make_unique<Detector>();
  const Found found = (*detector)(image, vector);
  print("classes", found.classes.data(), found.classes.size());
  print("box", found.box.data(), found.box.size());
  print("map", found.map.data(), 8);

  Cell cell;
  for (std::size_t step = 0; step < 5; step++) {
    std::array<float, CELL_INPUT_0_SIZE> x;
    for (std::size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>((step * 6 + i) * 29 % 23) / 11.0f - 1.0f;
    const auto y = cell(x);
    print("y", y.data(), y.size());
  }
}

// Every line of the file is one 8x8 image, 64 grey values 0..16, and its label.
static bool digits(const char *file) {
  std::ifstream in(file);
  Digits network;
  int right = 0, total = 0;
  for (std::string line; std::getline(in, line);) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream words(line);
    std::array<float, DIGITS_INPUT_SIZE> image;
    int label;
    for (float &pixel : image) words >> pixel;
    if (!(words >> label)) continue;
    const auto logits = network(image);
    right += std::max_element(logits.begin(), logits.end()) - logits.begin() == label;
    total++;
  }
  std::fprintf(stderr, "%d of %d digits right\n", right, total);
  // Less than 95 % would mean that something is broken.
  return total > 0 && 100 * right >= 95 * total;
}

int main(int argc, char **argv) try {
  several();
  return argc == 2 && digits(argv[1]) ? 0 : 1;
} catch (const std::exception &e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
