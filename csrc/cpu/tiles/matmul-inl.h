// The microkernel of the implicit GEMMs: a register tile of a sum of small matrix products (a
// "batch-reduce GEMM": Georganas et al., "Harnessing Deep Learning via a Single Building Block",
// IPDPS 2020).
//
//   out[row][column] = init + sum over outer, inner, k of
//       a[outer][inner][row][k] * b[outer][inner][k][column]
//
// The columns are adjacent in memory and fill up to kPanelVectors vectors. Each float of `a` is
// read once for all columns. Its strides are free, so that `a` can be the pixels of an image or its
// channels. All outputs of a tile stay in registers while a block of products is summed.
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/simd/product.h"
#include "cpu/tiles/epilogue-inl.h"

namespace convkern::cpu {
namespace {

constexpr int kPanelVectors = Vec::kTiles.panel_vectors;  // most vectors in the columns of a panel
constexpr int64_t kLine = 64 / sizeof(Real);              // floats of a line of the cache

// All strides are in floats.
struct MatmulTile {
  const Real* a;
  int64_t a_row, a_k, a_inner = 0, a_outer = 0;
  const Real* b;
  int64_t b_k, b_inner = 0, b_outer = 0;
  int64_t k, inner = 1, outer = 1;
  int64_t block;  // products summed in a row; the sums of blocks are added up
  Real* out;
  int64_t out_row;
  int lanes;  // lanes of a row's last vector that are in memory
  Init init;
  const Real* bias;    // for Init::bias: one float for each column
  int bias_lanes = 0;  // lanes of its last vector; fewer than `lanes` where rows are padded
  const Epilogue* bounds = nullptr;  // null, or what bounds the sums
  // Null, or memory that will soon be read. Each product prefetches a line of it to the L2 cache.
  const Real* fetched = nullptr;

  // Joins the inner runs of products into one run, where both factors are contiguous in memory.
  void join_runs() {
    if (a_inner != k * a_k || b_inner != k * b_k) return;
    k *= inner;
    inner = 1;
  }
};

template <int kRows, int kVectors>
struct MatmulKernel {
  using Sums = Vec[kRows][kVectors];

  // Adds n products to each sum. For each it prefetches a line, from `fetch` on.
  static CONVKERN_INLINE void add_products(Sums& sum, const MatmulTile& t, const Real* a,
                                           const Real* b, int64_t n, const Real*& fetch) {
    const int64_t row = t.a_row, a_step = t.a_k, b_step = t.b_k;
    const int64_t fetch_step = t.fetched == nullptr ? 0 : kLine;
    for (; n > 0; --n, a += a_step, b += b_step, fetch += fetch_step) {
      __builtin_prefetch(fetch, /*write=*/0, /*locality: L2*/ 2);
      Vec columns[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) columns[v] = held(Vec::load_unaligned(b + v * kLanes));
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec x = held(Vec::broadcast(a + r * row));
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[r][v] = add_product(x, columns[v], sum[r][v]);
      }
    }
  }

  // Sums of the blocks before, if there are any: on the stack, or in `out`. Those on the stack are
  // whole vectors. Parts of vectors that are stored and loaded again at once take far longer.
  struct Before {
    enum { kNone, kOnStack, kInOut } where;
    Sums sums;
  };

  // Moves the sums to the stack, added to those of the blocks before, and sets them to zero.
  static CONVKERN_INLINE void set_aside(Sums& sum, const MatmulTile& t, Before& before) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        before.sums[r][v] = add_before(sum[r][v], t, before, r, v);
        sum[r][v] = Vec::zero();
      }
    }
    before.where = Before::kOnStack;
  }

  static CONVKERN_INLINE Vec add_before(Vec sum, const MatmulTile& t, const Before& before, int r,
                                        int v) {
    if (before.where == Before::kOnStack) return add(before.sums[r][v], sum);
    if (before.where == Before::kNone) return sum;
    return add(load(t.lanes, v, t.out + r * t.out_row + v * kLanes), sum);
  }

  // Calls change(sum, r, v) for every sum.
  template <class Change>
  static CONVKERN_INLINE void for_each_sum(Sums& sum, const Change& change) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) change(sum[r][v], r, v);
    }
  }

  // Stores the sums. What is done to all of them is decided once, since a tile of few products
  // would otherwise take longer for its decisions than for its products.
  static CONVKERN_INLINE void store(Sums& sum, const MatmulTile& t, const Before& before) {
    if (before.where != Before::kNone) {
      for_each_sum(sum, [&](Vec& s, int r, int v)
                            CONVKERN_INLINE_LAMBDA { s = add_before(s, t, before, r, v); });
    }
    if (t.bounds != nullptr) {
      for_each_sum(sum, [&](Vec& s, int, int) CONVKERN_INLINE_LAMBDA { s = t.bounds->bound(s); });
    }
    Real* const out = t.out;
    const int64_t row = t.out_row;
    if (t.lanes == kLanes) {
      for_each_sum(sum, [&](Vec& s, int r, int v) CONVKERN_INLINE_LAMBDA {
        s.store_unaligned(out + r * row + v * kLanes);
      });
      return;
    }
    for_each_sum(sum, [&](Vec& s, int r, int v) CONVKERN_INLINE_LAMBDA {
      Real* at = out + r * row + v * kLanes;
      v < kVectors - 1 ? s.store_unaligned(at) : s.store_first(at, t.lanes);
    });
  }

  static CONVKERN_NOINLINE void run(const MatmulTile& t) {
    // Prefetch the outputs, so that they arrive while the products are computed.
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        __builtin_prefetch(t.out + r * t.out_row + v * kLanes, /*write=*/1);
      }
    }
    Sums sum;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const Vec start =
          t.init == Init::bias ? load(t.bias_lanes, v, t.bias + v * kLanes) : Vec::zero();
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sum[r][v] = start;
    }
    Before before;
    // The sums are written before they are read. Compilers do not see this and warn; this tells
    // them that they are written, and does nothing.
    asm("" : "=m"(before.sums));
    before.where = t.init == Init::accumulate ? Before::kInOut : Before::kNone;
    int64_t left = t.block;
    const Real* fetch = t.fetched == nullptr ? t.b : t.fetched;
    for (int64_t outer = 0; outer < t.outer; ++outer) {
      for (int64_t inner = 0; inner < t.inner; ++inner) {
        const Real* a = t.a + outer * t.a_outer + inner * t.a_inner;
        const Real* b = t.b + outer * t.b_outer + inner * t.b_inner;
        for (int64_t k = 0, n; k < t.k; k += n) {
          if (left == 0) {
            set_aside(sum, t, before);
            left = t.block;
          }
          n = std::min(left, t.k - k);
          left -= n;
          add_products(sum, t, a + k * t.a_k, b + k * t.b_k, n, fetch);
        }
      }
    }
    store(sum, t, before);
  }

  // Returns whether all lanes of a row's vector v are in memory. `lanes` is the number that are in
  // the last vector.
  static CONVKERN_INLINE bool is_whole(int lanes, int v) {
    return v < kVectors - 1 || lanes == kLanes;
  }
  static CONVKERN_INLINE Vec load(int lanes, int v, const Real* at) {
    return is_whole(lanes, v) ? Vec::load_unaligned(at) : Vec::load_first(at, lanes);
  }
};

constexpr int64_t kMostBlock = 128;  // products summed in a row; longer blocks are not faster

// Rounding errors are smallest in blocks of about the square root of the number of products. Blocks
// four times as long keep them below twice those of torch.
int64_t block_of_products(int64_t products) {
  const auto most = static_cast<int64_t>(4 * std::sqrt(static_cast<double>(products)));
  return near_equal_block(products, std::clamp<int64_t>(most, 1, kMostBlock));
}

// The most rows in a tile whose rows have `vectors` vectors: as many as fit in registers and still
// pay.
constexpr int tile_rows(int vectors) { return Vec::kTiles.panel_rows[vectors - 1]; }

using RunMatmul = void (*)(const MatmulTile&);

template <int kVectors, int... kRow>
RunMatmul matmul_of(int64_t rows, std::integer_sequence<int, kRow...>) {
  static constexpr RunMatmul table[] = {MatmulKernel<kRow + 1, kVectors>::run...};
  return table[rows - 1];
}

template <int... kVector>
RunMatmul matmul_of(int64_t rows, int64_t vectors, std::integer_sequence<int, kVector...>) {
  using Of = RunMatmul (*)(int64_t);
  static constexpr Of table[] = {[](int64_t n) {
    return matmul_of<kVector + 1>(n, std::make_integer_sequence<int, tile_rows(kVector + 1)>{});
  }...};
  return table[vectors - 1](rows);
}

// Returns the microkernel for 1 <= rows <= tile_rows(vectors).
RunMatmul matmul_of(int64_t rows, int64_t vectors) {
  return matmul_of(rows, vectors, std::make_integer_sequence<int, kPanelVectors>{});
}

}  // namespace
}  // namespace convkern::cpu
