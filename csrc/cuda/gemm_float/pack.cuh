// Packs weights into the form that implicit_gemm reads: (group, tap row, tap column, term, column).
// Terms fill whole parts of kDepth and columns fill whole tiles. Zeros fill the gaps.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/gemm/geometry.cuh"

namespace convkern::cuda {

// `size` counts packed elements of one tap. Each thread copies its element for all taps one after
// the other, because taps are neighbours in w.
__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const float* w, const TapsOf taps, int terms, int columns, int packed_terms,
              int packed_columns, int64_t size, float* packed) {
  const int64_t of_tap = static_cast<int64_t>(packed_terms) * packed_columns;
  for_each_element(size, [&](auto i) {
    const auto row = i / packed_columns, group = row / packed_terms;
    const auto column = static_cast<int>(i % packed_columns);
    const auto term = static_cast<int>(row % packed_terms);
    const bool exists = term < terms && column < columns;
    float* to = packed + group * taps.taps_h * taps.taps_w * of_tap + i % of_tap;
    for (int m = 0; m < taps.taps_h; ++m) {
      for (int k = 0; k < taps.taps_w; ++k, to += of_tap) {
        *to = exists ? w[taps.at(group, column, term, m, k)] : 0.f;
      }
    }
  });
}

}  // namespace convkern::cuda
