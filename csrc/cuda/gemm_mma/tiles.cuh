// The tile of the tensor-core implicit GEMMs, which sums products of two operands in shared memory.
// It uses the fragments of mma.sync, which have 16 rows, 8 columns and 32 bytes of terms.
//
// A block computes kRows x kColumns sums and a warp kWarpRows x 32 of them. Terms of any type are
// summed 64 bytes of a row at a time and copied in chunks of 16 bytes. An exclusive or determines
// where a chunk is stored. It puts the eight rows of a matrix that ldmatrix loads into different
// banks.
#pragma once

#include <cstdint>

#include "core/scalar_types.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda::implicit_gemm_mma {

constexpr int kWarpThreads = 32;
constexpr int kRowBytes = 64, kChunkBytes = 16, kRowChunks = kRowBytes / kChunkBytes;
constexpr int kParts = 2;  // parts of a row's terms; each part fills one fragment
template <class Element>
constexpr int kDepth = kRowBytes / static_cast<int>(sizeof(Element));  // terms of a row at a time
template <class Element>
constexpr int kChunk = kChunkBytes / static_cast<int>(sizeof(Element));  // elements in a chunk

__device__ __forceinline__ int lane() { return threadIdx.x % kWarpThreads; }

// Rounds floats to TF32, because mma would truncate them instead.
template <class Element>
__device__ __forceinline__ void round_terms(uint32_t (&terms)[4]) {
  if constexpr (sizeof(Element) == 4) {
#pragma unroll
    for (uint32_t& term : terms) term = round_to_tf32(term);
  }
}

// kCount rows (or columns) whose terms are adjacent. Columns have been rounded to TF32 before.
template <class Element, int kCount>
struct RowsOfTerms {
  static constexpr int kBytes = kCount * kRowBytes;

  __device__ static int at(int row, int chunk) {
    return row * kRowBytes + (chunk ^ row / 2 % kRowChunks) * kChunkBytes;
  }
  // Loads a fragment of 16 rows. They begin at `row`, counted from the warp's row `first`.
  __device__ static void load_rows(const char* shared, int first, int row, int part,
                                   uint32_t (&to)[4]) {
    load_matrices(to, shared + at(first + row + lane() % 16, part * 2 + lane() / 16));
    round_terms<Element>(to);
  }
  // Loads two fragments of 8 columns each, in two registers for each.
  __device__ static void load_columns(const char* shared, int first, int column, int part,
                                      uint32_t (&to)[4]) {
    load_matrices(
        to, shared + at(first + column + lane() % 8 + lane() / 16 * 8, part * 2 + lane() / 8 % 2));
  }
};

// The chunks that a thread copies from kCount rows of terms: one chunk of every kStep-th row.
template <class T, int kCount>
struct RowChunks {
  static constexpr int kStep = T::kThreads / kRowChunks, kRows = kCount / kStep;
  static_assert(kRows * kStep == kCount && kStep % 8 == 0);

  __device__ static int row(int i) { return threadIdx.x / kRowChunks + i * kStep; }
  __device__ static int chunk() { return threadIdx.x % kRowChunks; }
  // Rows that are a multiple of 8 apart store their chunks in the same order.
  __device__ static int at(int i) {
    return RowsOfTerms<typename T::Element, kCount>::at(row(0), chunk()) + i * kStep * kRowBytes;
  }
};

// kDepth terms, each with kCount adjacent rows (or columns).
template <class Element, int kCount>
struct TermsOfRows {
  static constexpr int kBytes = kCount * kRowBytes;
  static constexpr int kTermChunks = kCount / kChunk<Element>;
  static constexpr int kPartTerms = kDepth<Element> / kParts;

  __device__ static int at(int term, int chunk) {
    // A matrix is one chunk of each of eight terms. Floats are loaded from two chunks of each of
    // four terms.
    const int order = sizeof(Element) == 2 ? term % 8 : term % 4 * 2;
    return (term * kTermChunks + (chunk ^ order)) * kChunkBytes;
  }
  // These load rows and columns like the functions of RowsOfTerms.
  __device__ static void load_rows(const char* shared, int first, int row, int part,
                                   uint32_t (&to)[4]) {
    if constexpr (sizeof(Element) == 2) {
      const int term = part * kPartTerms + lane() % 8 + lane() / 16 * 8;
      load_matrices_transposed(to,
                               shared + at(term, (first + row) / kChunk<Element> + lane() / 8 % 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = word(shared, first, row + i % 2 * 8, part, i / 2 * 4);
      round_terms<Element>(to);
    }
  }
  __device__ static void load_columns(const char* shared, int first, int column, int part,
                                      uint32_t (&to)[4]) {
    if constexpr (sizeof(Element) == 2) {
      const int term = part * kPartTerms + lane() % 16;
      load_matrices_transposed(to,
                               shared + at(term, (first + column) / kChunk<Element> + lane() / 16));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) to[i] = word(shared, first, column + i / 2 * 8, part, i % 2 * 4);
      round_terms<Element>(to);
    }
  }

 private:
  // Loads this lane's word of a matrix of floats, because ldmatrix transposes 16-bit elements only.
  // The matrix begins at `row`, counted from the warp's row `first`, and at a term of the part. The
  // part of the address that is the same for all lanes is added last, so that it becomes the load's
  // immediate offset. This works because chunks have the same order 32 rows or 4 terms further on.
  __device__ static uint32_t word(const char* shared, int first, int row, int part, int term) {
    constexpr int kPitch = kTermChunks * kChunkBytes, kFour = kChunk<Element>;
    const int of_lane = at(lane() % 4, row % 32 / kFour + lane() / 4 / kFour) +
                        lane() / 4 % kFour * static_cast<int>(sizeof(Element));
    const int constant =
        row / 32 * 32 * static_cast<int>(sizeof(Element)) + (part * kPartTerms + term) * kPitch;
    const char* warp = shared + first * sizeof(Element);
    return *reinterpret_cast<const uint32_t*>(warp + of_lane + constant);
  }
};

template <class Element_, int kRows_, int kColumns_, int kWarpRows_>
struct Tile {
  using Element = Element_;
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = 32;
  static constexpr int kThreads = (kRows / kWarpRows) * (kColumns / kWarpColumns) * kWarpThreads;
  static constexpr int kStageBytes = (kRows + kColumns) * kRowBytes;
  static constexpr int kRowFragments = kWarpRows / 16, kColumnFragments = kWarpColumns / 8;
  static_assert(kRows % kWarpRows == 0 && kColumns % kWarpColumns == 0);

  int warp_row, warp_column;  // where this warp's sums begin in the tile

  __device__ Tile() {
    const int warp = threadIdx.x / kWarpThreads;
    warp_row = warp % (kRows / kWarpRows) * kWarpRows;
    warp_column = warp / (kRows / kWarpRows) * kWarpColumns;
  }
  // The row and the column of sums[i][j][k] in the tile.
  __device__ int row(int i, int k) const { return warp_row + i * 16 + k / 2 * 8 + lane() / 4; }
  __device__ int column(int j, int k) const { return warp_column + j * 8 + lane() % 4 * 2 + k % 2; }

  using Sums = float[kRowFragments][kColumnFragments][4];

  // Adds the products of kDepth terms.
  template <class A, class B>
  __device__ __forceinline__ void add_products(const char* a, const char* b, Sums& sums) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      uint32_t columns[kColumnFragments][2];
#pragma unroll
      for (int j = 0; j < kColumnFragments; j += 2) {
        uint32_t both[4];
        B::load_columns(b, warp_column, j * 8, part, both);
        columns[j][0] = both[0], columns[j][1] = both[1];
        columns[j + 1][0] = both[2], columns[j + 1][1] = both[3];
      }
#pragma unroll
      for (int i = 0; i < kRowFragments; ++i) {
        uint32_t rows[4];
        A::load_rows(a, warp_row, i * 16, part, rows);
#pragma unroll
        for (int j = 0; j < kColumnFragments; ++j) mma<Element>(sums[i][j], rows, columns[j]);
      }
    }
  }
};

// The blocks that a multiprocessor must be able to hold at once. This limits the registers of a
// thread to 128. For 64-bit indices the limit is 168, or 255 in a block of 256 threads.
template <class Index>
constexpr int resident_blocks(int threads) {
  return (sizeof(Index) == 8 ? 384 : 512) / threads;
}

// Copies a chunk to shared memory, or zeros if the chunk does not exist. Unaligned chunks are
// copied element by element; views with such chunks are rare.
template <bool kAligned, class Element, class Index>
__device__ __forceinline__ void copy_chunk(char* to, const Element* tensor, Index from,
                                           bool exists) {
  if constexpr (kAligned) {
    copy_async<kChunkBytes>(to, exists ? tensor + from : tensor, exists ? kChunkBytes : 0);
  } else {
#pragma unroll
    for (int i = 0; i < kChunk<Element>; ++i) {
      reinterpret_cast<Element*>(to)[i] = exists ? tensor[from + i] : Element{};
    }
  }
}

}  // namespace convkern::cuda::implicit_gemm_mma
