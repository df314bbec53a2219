// The tile of the tensor-core implicit GEMMs: products of two operands in shared memory, in
// mma.sync's fragments of 16 rows, 8 columns and 32 bytes of terms.
//
// A block computes kRows x kColumns sums, a warp kWarpRows x 32 of them. Terms are summed 64 bytes
// of a row at a time, whatever their type, and copied in chunks of 16 bytes. Chunks are stored
// where an exclusive or puts them, so that the eight rows of a matrix that ldmatrix loads are in
// different banks.
#pragma once

#include <cstdint>

#include "core/scalar_types.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda::implicit_gemm_mma {

constexpr int kWarpThreads = 32;
constexpr int kRowBytes = 64, kChunkBytes = 16, kRowChunks = kRowBytes / kChunkBytes;
constexpr int kParts = 2;  // of a row's terms, each of one fragment
template <class Element>
constexpr int kDepth = kRowBytes / static_cast<int>(sizeof(Element));  // terms at a time
template <class Element>
constexpr int kChunk = kChunkBytes / static_cast<int>(sizeof(Element));  // elements

__device__ __forceinline__ int lane() { return threadIdx.x % kWarpThreads; }

// Floats become TF32, which mma would cut them off to.
template <class Element>
__device__ __forceinline__ void round_terms(uint32_t (&terms)[4]) {
  if constexpr (sizeof(Element) == 4) {
#pragma unroll
    for (uint32_t& term : terms) term = round_to_tf32(term);
  }
}

// kCount rows (or columns), each with its terms side by side. Columns have been rounded before.
template <class Element, int kCount>
struct RowsOfTerms {
  static constexpr int kBytes = kCount * kRowBytes;

  __device__ static int at(int row, int chunk) {
    return row * kRowBytes + (chunk ^ row / 2 % kRowChunks) * kChunkBytes;
  }
  // A fragment of 16 rows from `row` on, counted from the warp's `first`.
  __device__ static void load_rows(const char* shared, int first, int row, int part,
                                   uint32_t (&to)[4]) {
    load_matrices(to, shared + at(first + row + lane() % 16, part * 2 + lane() / 16));
    round_terms<Element>(to);
  }
  // Fragments of 8 columns each, two registers after the other.
  __device__ static void load_columns(const char* shared, int first, int column, int part,
                                      uint32_t (&to)[4]) {
    load_matrices(
        to, shared + at(first + column + lane() % 8 + lane() / 16 * 8, part * 2 + lane() / 8 % 2));
  }
};

// The chunks that a thread copies of kCount rows of terms: one of every kStep-th row.
template <class T, int kCount>
struct RowChunks {
  static constexpr int kStep = T::kThreads / kRowChunks, kRows = kCount / kStep;
  static_assert(kRows * kStep == kCount && kStep % 8 == 0);

  __device__ static int row(int i) { return threadIdx.x / kRowChunks + i * kStep; }
  __device__ static int chunk() { return threadIdx.x % kRowChunks; }
  // Rows that are 8 apart have their chunks in the same order.
  __device__ static int at(int i) {
    return RowsOfTerms<typename T::Element, kCount>::at(row(0), chunk()) + i * kStep * kRowBytes;
  }
};

// kDepth terms, each of kCount rows (or columns) side by side.
template <class Element, int kCount>
struct TermsOfRows {
  static constexpr int kBytes = kCount * kRowBytes;
  static constexpr int kTermChunks = kCount / kChunk<Element>;
  static constexpr int kPartTerms = kDepth<Element> / kParts;

  __device__ static int at(int term, int chunk) {
    // A matrix is one chunk of eight terms; floats are loaded from two chunks of four terms.
    const int order = sizeof(Element) == 2 ? term % 8 : term % 4 * 2;
    return (term * kTermChunks + (chunk ^ order)) * kChunkBytes;
  }
  // Loads rows and columns as the functions above do.
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
  // The word of a lane in the matrix that begins at a row, counted from the warp's first, and at a
  // term of the part: ldmatrix transposes elements of 16 bits only. What the lane does not change
  // is added last, to be the load's own offset: 32 rows, and 4 terms, further the order of chunks
  // is the same.
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

  int warp_row, warp_column;  // where the sums of this thread's warp begin in the tile

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

// Blocks that a multiprocessor shall hold at once, by which a thread's registers are limited: 128,
// and 168, or 255 in a block of 256 threads, for 64-bit indices.
template <class Index>
constexpr int resident_blocks(int threads) {
  return (sizeof(Index) == 8 ? 384 : 512) / threads;
}

// Copies a chunk to shared memory, or zeros if it does not exist. Where chunks of the tensor are
// not aligned, element after element: such views are rare.
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
