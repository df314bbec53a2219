// The register tile of the implicit GEMMs, which sums products of two operands in shared memory.
//
// A block computes kRows x kColumns sums and a thread 8 x kThreadColumns of them. A warp is 4 x 8
// threads, and so has 32 rows of the block's tile. Terms are summed kDepth at a time.
#pragma once

#include "cuda/device_ops.cuh"
#include "cuda/gemm/pipeline.cuh"

namespace convkern::cuda {

constexpr int kDepth = 16;  // terms in shared memory at a time
constexpr int kThreadRows = 8;
constexpr int kWarpThreads = 32, kLaneRows = 4, kLaneColumns = 8;

// The dimension that is innermost in memory: the rows (or columns) of an operand, or its terms.
enum class Inner { rows, terms };

// `kRows` rows of kDepth terms each. If terms are innermost, each row is padded by 4 floats. The
// threads of a warp read neighbouring rows, and the padding puts these into different banks.
template <int kRows, Inner kInner_>
struct SharedOperand {
  static constexpr Inner kInner = kInner_;
  static constexpr int kPitch = kInner == Inner::rows ? kRows : kDepth + 4;
  static constexpr int kFloats = kInner == Inner::rows ? kPitch * kDepth : kPitch * kRows;

  __device__ static int at(int row, int term) {
    return kInner == Inner::rows ? term * kPitch + row : row * kPitch + term;
  }
  // The `i`-th row of the thread `lane`, when `lanes` threads share the rows from 0 on. A thread
  // has four adjacent rows at a time if rows are innermost, and every lanes-th row otherwise.
  __device__ static int row_of(int lane, int lanes, int i) {
    return kInner == Inner::rows ? (i / 4 * lanes + lane) * 4 + i % 4 : i * lanes + lane;
  }
};

template <class A, class B>
constexpr int kStageBytes = (A::kFloats + B::kFloats) * static_cast<int>(sizeof(float));

template <int kRows_, int kColumns_, int kThreadColumns_>
struct Tile {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kThreadColumns = kThreadColumns_;
  static constexpr int kWarpRows = kLaneRows * kThreadRows;
  static constexpr int kWarpColumns = kLaneColumns * kThreadColumns;
  static constexpr int kWarps = (kRows / kWarpRows) * (kColumns / kWarpColumns);
  static constexpr int kThreads = kWarps * kWarpThreads;
  static_assert(kRows % kWarpRows == 0 && kColumns % kWarpColumns == 0);

  // The first row and column of the warp's sums in the tile, and the thread's place in the warp.
  int warp_row, warp_column, lane_row, lane_column;

  __device__ Tile() {
    const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
    warp_row = warp % (kRows / kWarpRows) * kWarpRows;
    warp_column = warp / (kRows / kWarpRows) * kWarpColumns;
    lane_row = lane / kLaneColumns;
    lane_column = lane % kLaneColumns;
  }
  template <class A>
  __device__ int row(int i) const {
    return warp_row + A::row_of(lane_row, kLaneRows, i);
  }
  template <class B>
  __device__ int column(int j) const {
    return warp_column + B::row_of(lane_column, kLaneColumns, j);
  }

  using Sums = float[kThreadRows][kThreadColumns];

  // Adds the products of kDepth terms.
  template <class A, class B>
  __device__ __forceinline__ void add_products(const float* a, const float* b, Sums& sums) const {
    // Not unrolled: the operands of all steps would need more registers than there are.
#pragma unroll 1
    for (int term = 0; term < kDepth; term += 4) {
      if constexpr (A::kInner == Inner::rows) {
        static_assert(B::kInner == Inner::rows);
#pragma unroll
        for (int t = term; t < term + 4; ++t) {
          float rows[kThreadRows], columns[kThreadColumns];
          load_adjacent<A>(a, t, warp_row, lane_row, kLaneRows, rows);
          load_adjacent<B>(b, t, warp_column, lane_column, kLaneColumns, columns);
          add_outer_product(rows, 0, columns, sums);
        }
      } else {
        // Half of the rows are loaded at a time, because four terms of all rows would need too many
        // registers.
        constexpr int kHalf = kThreadRows / 2;
#pragma unroll
        for (int first = 0; first < kThreadRows; first += kHalf) {
          float4 rows[kHalf];
#pragma unroll
          for (int i = 0; i < kHalf; ++i) rows[i] = load4(a + A::at(row<A>(first + i), term));
          add_products_of_rows<B>(rows, first, b, term, sums);
        }
      }
    }
  }

 private:
  template <class O, int kCount>
  __device__ __forceinline__ static void load_adjacent(const float* shared, int term, int first,
                                                       int lane, int lanes, float (&to)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = load4(shared + O::at(first + O::row_of(lane, lanes, i), term));
      to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
    }
  }

  // Adds the products of one term, for kCount rows from `first` on.
  template <int kCount>
  __device__ __forceinline__ static void add_outer_product(const float (&rows)[kCount], int first,
                                                           const float (&columns)[kThreadColumns],
                                                           Sums& sums) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        sums[first + i][j] = fmaf(rows[i], columns[j], sums[first + i][j]);
      }
    }
  }

  // Adds the products of four terms, for kCount rows from `first` on.
  template <class B, int kCount>
  __device__ __forceinline__ void add_products_of_rows(const float4 (&rows)[kCount], int first,
                                                       const float* b, int term, Sums& sums) const {
    if constexpr (B::kInner == Inner::rows) {
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        float of_term[kCount], columns[kThreadColumns];
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          of_term[i] = t == 0 ? rows[i].x : t == 1 ? rows[i].y : t == 2 ? rows[i].z : rows[i].w;
        }
        load_adjacent<B>(b, term + t, warp_column, lane_column, kLaneColumns, columns);
        add_outer_product(of_term, first, columns, sums);
      }
    } else {
#pragma unroll
      for (int j = 0; j < kThreadColumns; ++j) {
        const float4 c = load4(b + B::at(column<B>(j), term));
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          float sum = fmaf(rows[i].x, c.x, sums[first + i][j]);
          sum = fmaf(rows[i].y, c.y, sum);
          sum = fmaf(rows[i].z, c.z, sum);
          sums[first + i][j] = fmaf(rows[i].w, c.w, sum);
        }
      }
    }
  }
};

// Multiplies `steps` parts of kDepth terms. fill(a, b) begins to copy the next part to a stage.
template <class A, class B, class T, class Fill>
__device__ __forceinline__ void multiply_pipelined(const T& tile, int steps, const Fill& fill,
                                                   typename T::Sums& sums) {
  run_pipeline<kStageBytes<A, B>>(
      steps,
      [&](char* stage) {
        auto* a = reinterpret_cast<float*>(stage);
        fill(a, a + A::kFloats);
      },
      [&](const char* stage) {
        const auto* a = reinterpret_cast<const float*>(stage);
        tile.template add_products<A, B>(a, a + A::kFloats, sums);
      });
}

}  // namespace convkern::cuda
