// Weights as implicit_gemm reads them: (group, tap row, tap column, term, column), terms in whole
// parts of kDepth and columns in whole tiles, with zeros between.
#pragma once

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/implicit_gemm/geometry.cuh"

namespace convkern::cuda {

__global__ void __launch_bounds__(kElementThreads)
    pack_taps(const float* w, const TapsOf taps, int terms, int columns, int packed_terms,
              int packed_columns, int64_t size, float* packed) {
  for_each_element(size, [&](int64_t i) {
    const int column = static_cast<int>(i % packed_columns);
    int64_t rest = i / packed_columns;
    const int term = static_cast<int>(rest % packed_terms);
    rest /= packed_terms;
    const int k = static_cast<int>(rest % taps.taps_w);
    rest /= taps.taps_w;
    const int m = static_cast<int>(rest % taps.taps_h);
    packed[i] =
        term < terms && column < columns ? w[taps.at(rest / taps.taps_h, column, term, m, k)] : 0.f;
  });
}

}  // namespace convkern::cuda
