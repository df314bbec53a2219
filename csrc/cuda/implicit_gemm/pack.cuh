// Weights as the implicit GEMMs read them: (group, tap row, tap column, term, column), terms in
// whole parts of kDepth and columns in whole tiles, with zeros between.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"

namespace convkern::cuda {

// Where a group's weights of a pass are in w (O, C / groups, R, S), in floats.
struct TapsOf {
  const float* w;
  int64_t group, column, term;
  int taps_h, taps_w, S;
  int first_h, first_w;  // index in w of the first tap
  int step_h, step_w;    // and from one to the next
};

__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const TapsOf taps, int terms, int columns, int packed_terms, int packed_columns,
              int64_t size, float* packed) {
  for_each_element(size, [&](int64_t i) {
    const int column = static_cast<int>(i % packed_columns);
    int64_t rest = i / packed_columns;
    const int term = static_cast<int>(rest % packed_terms);
    rest /= packed_terms;
    const int k = static_cast<int>(rest % taps.taps_w);
    rest /= taps.taps_w;
    const int m = static_cast<int>(rest % taps.taps_h);
    const int64_t group = rest / taps.taps_h;
    const int64_t tap = (taps.first_h + m * taps.step_h) * static_cast<int64_t>(taps.S) +
                        taps.first_w + k * taps.step_w;
    packed[i] = term < terms && column < columns
                    ? taps.w[group * taps.group + column * taps.column + term * taps.term + tap]
                    : 0.f;
  });
}

}  // namespace convkern::cuda
