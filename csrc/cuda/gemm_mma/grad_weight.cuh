// The kernel for grad_weight on tensor cores, with partial sums in float32. weight_sums.cuh
// describes the computation.
//
// Both tensors are channels_last with whole chunks of channels in each group; pack.cuh prepares
// others. Chunks are copied straight to shared memory as rows of channels, and are transposed when
// they are loaded from there.
#pragma once

#include "cuda/gemm/pipeline.cuh"
#include "cuda/gemm/weight_sums.cuh"
#include "cuda/gemm_mma/tiles.cuh"

namespace convkern::cuda::implicit_gemm_mma {

template <class Element, class Index>
struct Sums : WeightSums<Element, Index> {
  int row_chunks, column_chunks;  // chunks of one group's channels
};

// Copies kDepth pixels of both tensors: channels of gy, which are the tile's rows, and channels of
// x, its columns.
template <class T, class Index, bool kAligned>
struct ChannelCopies {
  using Element = typename T::Element;
  using A = TermsOfRows<Element, T::kRows>;
  using B = TermsOfRows<Element, T::kColumns>;
  static_assert(T::kRows == T::kColumns);  // a thread copies the same chunk of both
  static constexpr int kStep = T::kThreads / A::kTermChunks;  // pixels that are copied together
  static constexpr int kPixels = kDepth<Element> / kStep;
  static_assert(kPixels * kStep == kDepth<Element> && kStep % 8 == 0);

  const Sums<Element, Index>& c;
  PixelMap<Element, Index> x;
  Index left;  // pixels that exist, from the thread's first on
  Digits<Index> pixels[kPixels];
  Index from_gy, of_x;  // chunk of the first pixel in gy, and of any pixel in x
  bool has_row, has_column;

  __device__ ChannelCopies(const Sums<Element, Index>& c, const WeightBlock<T, Index>& block)
      : c(c), x(block.x_of_tap(c)), left(block.end - block.begin - term()) {
    const Index index = block.begin + term();
#pragma unroll
    for (int i = 0; i < kPixels; ++i) pixels[i] = {index + i * kStep, c.height, c.width};
    const int row = block.first_row / kChunk<Element> + chunk();
    const int column = block.first_column / kChunk<Element> + chunk();
    has_row = row < c.row_chunks;
    has_column = column < c.column_chunks;
    from_gy = index * c.gy.strides.column +
              (static_cast<Index>(block.group) * c.row_chunks + row) * kChunk<Element>;
    of_x = (static_cast<Index>(block.group) * c.column_chunks + column) * kChunk<Element>;
  }
  __device__ static int chunk() { return threadIdx.x % A::kTermChunks; }
  __device__ static int term() { return threadIdx.x / A::kTermChunks; }  // the thread's first pixel

  __device__ void begin(char* a, char* b) {
    const int first = A::at(term(), chunk());
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      // Terms that are a multiple of 8 apart store their chunks in the same order.
      const int to = first + i * kStep * A::kTermChunks * kChunkBytes;
      const bool exists = i * kStep < left;
      copy_chunk<kAligned>(a + to, c.gy.tensor, from_gy + i * kStep * c.gy.strides.column,
                           exists && has_row);
      Index at = 0;  // for pixels beyond the end, whose own offset might not fit
      const bool inside = exists && x.locate(Pixel<Index>(pixels[i]), at);
      copy_chunk<kAligned>(b + to, x.tensor, at + of_x, inside && has_column);
      pixels[i].add(c.stride, c.height, c.width);
    }
    from_gy += kDepth<Element> * c.gy.strides.column;
    left -= kDepth<Element>;
  }
};

template <class T, class Index, bool kAligned>
__global__ void __launch_bounds__(T::kThreads, resident_blocks<Index>(T::kThreads))
    sum_weights(const Sums<typename T::Element, Index> c) {
  using Copies = ChannelCopies<T, Index, kAligned>;
  using A = typename Copies::A;
  using B = typename Copies::B;
  constexpr int kTerms = kDepth<typename T::Element>;
  const WeightBlock<T, Index> block(c);
  Copies copies(c, block);
  const T tile;
  typename T::Sums sums = {};
  run_pipeline<T::kStageBytes>(
      static_cast<int>((block.end - block.begin + kTerms - 1) / kTerms),
      [&](char* stage) { copies.begin(stage, stage + A::kBytes); },
      [&](const char* stage) { tile.template add_products<A, B>(stage, stage + A::kBytes, sums); });

  float* partial = block.partial(c);
#pragma unroll
  for (int i = 0; i < T::kRowFragments; ++i) {
#pragma unroll
    for (int half = 0; half < 4; half += 2) {
      const int row = block.first_row + tile.row(i, half);
      if (row >= c.rows) continue;
      float* out = partial + static_cast<Index>(row) * c.columns;
#pragma unroll
      for (int j = 0; j < T::kColumnFragments; ++j) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int column = block.first_column + tile.column(j, k);
          if (column < c.columns) out[column] = sums[i][j][half + k];
        }
      }
    }
  }
}

}  // namespace convkern::cuda::implicit_gemm_mma
