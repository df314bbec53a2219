// A register tile of dot products between the rows of two matrices, both contiguous along the rows.
// The lanes of a vector hold partial sums, which are added at the end. No operand is rearranged, so
// that each is read once from memory even where it takes part in few products.
#pragma once

#include "cpu/tiles/transpose-inl.h"

namespace convkern::cpu {
namespace {

// Most rows of `a` and of `b` in a tile, which has an accumulator for each pair of them. Registers
// hold these, a vector of each row of `b`, and one of `a`. The tile of a correlation is as large
// (register_tiles.h): `columns` is the larger of its sides.
constexpr int kDotRows = Vec::kTiles.columns, kDotColumns = Vec::kTiles.rows;

// The sums of a[i][k] * b[j][k] over k. The strides between rows are in floats.
struct DotTile {
  const Real *a, *b;
  int64_t a_row, b_row;
  int64_t products;  // of one sum
};

template <int kRows, int kColumns>
struct DotKernel {
  using Sums = Vec[kRows][kColumns];

  template <class Load>
  static CONVKERN_INLINE void add_products(Sums& sum, const DotTile& t, int64_t k,
                                           const Load& load) {
    Vec b[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) b[j] = held(load(t.b + j * t.b_row + k));
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec a = held(load(t.a + i * t.a_row + k));
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sum[i][j] = fma(a, b[j], sum[i][j]);
    }
  }

  // Sets sums[i * kColumns + j] to the sum of row i of `a` and row j of `b`.
  static CONVKERN_NOINLINE void run(const DotTile& t, Real* sums) {
    Sums sum;
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sum[i][j] = Vec::zero();
    }
    int64_t k = 0;
    for (; k + kLanes <= t.products; k += kLanes) {
      add_products(sum, t, k,
                   [](const Real* p) CONVKERN_INLINE_LAMBDA { return Vec::load_unaligned(p); });
    }
    if (const int left = static_cast<int>(t.products - k); left > 0) {
      add_products(sum, t, k, [left](const Real* p) CONVKERN_INLINE_LAMBDA {
        return Vec::load_first(p, left);
      });
    }
    alignas(64) Real lanes[kRows * kColumns * kLanes];
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sum[i][j].store(lanes + (i * kColumns + j) * kLanes);
    }
    sum_lanes(lanes, kRows * kColumns, sums);
  }
};

using RunDot = void (*)(const DotTile&, Real*);

template <int... kTile>
RunDot dot_of(int64_t rows, int64_t columns, std::integer_sequence<int, kTile...>) {
  static constexpr RunDot table[] = {
      DotKernel<kTile / kDotColumns + 1, kTile % kDotColumns + 1>::run...};
  return table[(rows - 1) * kDotColumns + columns - 1];
}

// Returns the microkernel for 1 <= rows <= kDotRows and 1 <= columns <= kDotColumns.
RunDot dot_of(int64_t rows, int64_t columns) {
  return dot_of(rows, columns, std::make_integer_sequence<int, kDotRows * kDotColumns>{});
}

}  // namespace
}  // namespace convkern::cpu
