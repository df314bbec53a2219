// The kernel of grad_weight, see weight_sums.cuh, on the CUDA cores. Not yet run on a GPU.
#pragma once

#include "cuda/implicit_gemm/correlate.cuh"
#include "cuda/implicit_gemm/weight_sums.cuh"

namespace convkern::cuda {

// Copies kRows channels of kDepth pixels.
// Of channels_last, kVector channels at once: 4, where their addresses are multiples of 16 bytes.
template <class T, class Index, Layout kLayout, int kVector, int kRows>
struct ChannelCopies {
  static constexpr Inner kInner = kLayout == Layout::nchw ? Inner::terms : Inner::rows;
  using Shared = SharedOperand<kRows, kInner>;
  static constexpr int kQuads = kRows / 4;
  static constexpr int kSteps =
      kInner == Inner::terms ? kRows * kDepth / T::kThreads : kQuads * kDepth / T::kThreads;
  static_assert(kSteps > 0 && T::kThreads % kDepth == 0);

  PixelMap<float, Index> map;
  Index channel;  // the first
  int channels;   // that exist

  // Pixels from `first` on, of which those before `end` exist.
  __device__ void begin(Index first, Index end, int height, int width, float* to) const {
    if constexpr (kInner == Inner::terms) {
      const int t = threadIdx.x % kDepth;
      Index at = 0;
      const bool inside = locate(first + t, end, height, width, at);
      constexpr int kBetween = T::kThreads / kDepth;
      int row = threadIdx.x / kDepth;
      const float* from = map.tensor + at + row * map.strides.channel;
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const bool exists = inside && row < channels;
        copy_async<4>(to + Shared::at(row, t), exists ? from : map.tensor, exists ? 4 : 0);
        row += kBetween;
        from += kBetween * map.strides.channel;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int quad = threadIdx.x + i * T::kThreads;
        const int t = quad / kQuads, row = quad % kQuads * 4;
        Index at = 0;
        const bool inside = locate(first + t, end, height, width, at);
        copy_four<kVector>(to + Shared::at(row, t), map.tensor, at + row,
                           inside ? channels - row : 0);
      }
    }
  }

 private:
  // Of the first channel.
  __device__ bool locate(Index index, Index end, int height, int width, Index& at) const {
    const bool inside = map.locate(Pixel<Index>(index, height, width), at);
    at += channel * map.strides.channel;
    return index < end && inside;
  }
};

template <class T, class Index, Layout kLayout, int kVector>
__global__ void __launch_bounds__(T::kThreads,
                                  resident_blocks<Index, kLayout, kVector>(T::kThreads))
    sum_weights(const WeightSums<float, Index> c) {
  using Rows = ChannelCopies<T, Index, kLayout, kVector, T::kRows>;
  using Columns = ChannelCopies<T, Index, kLayout, kVector, T::kColumns>;
  using A = typename Rows::Shared;
  using B = typename Columns::Shared;
  const WeightBlock<T, Index> block(c);
  const Rows rows{c.gy, static_cast<Index>(block.group) * c.rows + block.first_row,
                  c.rows - block.first_row};
  const Columns columns{block.x_of_tap(c),
                        static_cast<Index>(block.group) * c.columns + block.first_column,
                        c.columns - block.first_column};
  Index pixel = block.begin;
  const T tile;
  typename T::Sums sums = {};
  multiply_pipelined<A, B>(
      tile, static_cast<int>((block.end - block.begin + kDepth - 1) / kDepth),
      [&](float* a, float* b) {
        rows.begin(pixel, block.end, c.height, c.width, a);
        columns.begin(pixel, block.end, c.height, c.width, b);
        pixel += kDepth;
      },
      sums);

  float* out = block.partial(c);
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const int row = block.first_row + tile.template row<A>(i);
    if (row >= c.rows) continue;
#pragma unroll
    for (int j = 0; j < T::kThreadColumns; ++j) {
      const int column = block.first_column + tile.template column<B>(j);
      if (column < c.columns) out[static_cast<Index>(row) * c.columns + column] = sums[i][j];
    }
  }
}

}  // namespace convkern::cuda
