// The kernel for grad_weight on the CUDA cores. weight_sums.cuh describes the computation.
#pragma once

#include "cuda/gemm_float/correlate.cuh"
#include "cuda/gemm/weight_sums.cuh"

namespace convkern::cuda {

// The pixels of gy that a thread copies among each kDepth. It copies one pixel in NCHW. Where
// channels are innermost, it copies kCount pixels that are kBetween apart.
template <class Index, int kCount, int kBetween>
struct TermPixels {
  Index left;  // pixels that exist, from the first on
  Digits<Index> pixels[kCount];

  template <class Sums>
  __device__ TermPixels(const Sums& c, Index first, Index end) : left(end - first) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) pixels[i] = {first + i * kBetween, c.height, c.width};
  }
  __device__ bool exists(int i) const { return i * kBetween < left; }
  template <class Sums>
  __device__ void advance(const Sums& c) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) pixels[i].add(c.stride, c.height, c.width);
    left -= kDepth;
  }
};

// Copies kRows channels of kDepth pixels. In channels_last it copies kVector channels at once, and
// kVector is 4 where addresses are multiples of 16 bytes.
template <class T, class Index, Layout kLayout, int kVector, int kRows>
struct ChannelCopies {
  static constexpr Inner kInner = kLayout == Layout::nchw ? Inner::terms : Inner::rows;
  using Shared = SharedOperand<kRows, kInner>;
  // A thread copies every kBetween-th channel of one pixel in NCHW, and four channels of kPixels
  // pixels in channels_last.
  static constexpr int kQuads = kRows / 4;
  static constexpr int kThreadsOfPixel = kInner == Inner::terms ? T::kThreads / kDepth : kQuads;
  static constexpr int kBetween = T::kThreads / kThreadsOfPixel;  // pixels at a time
  static constexpr int kPixels = kDepth / kBetween;
  static_assert(kPixels * kBetween == kDepth && kBetween * kThreadsOfPixel == T::kThreads);
  using Pixels = TermPixels<Index, kPixels, kBetween>;

  PixelMap<float, Index> map;
  Index channel;  // the first channel
  int channels;   // channels that exist

  __device__ static int term() {
    return kInner == Inner::terms ? threadIdx.x % kDepth : threadIdx.x / kQuads;
  }
  __device__ void begin(const Pixels& pixels, float* to) const {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      Index at = 0;  // for pixels beyond the end, whose own offset might not fit
      const bool inside = pixels.exists(i) && map.locate(Pixel<Index>(pixels.pixels[i]), at);
      at += channel * map.strides.channel;
      const int t = term() + i * kBetween;
      if constexpr (kInner == Inner::terms) {
        int row = threadIdx.x / kDepth;
        const float* from = map.tensor + at + row * map.strides.channel;
#pragma unroll
        for (int k = 0; k < kRows / kThreadsOfPixel; ++k) {
          const bool exists = inside && row < channels;
          copy_async<4>(to + Shared::at(row, t), exists ? from : map.tensor, exists ? 4 : 0);
          row += kThreadsOfPixel;
          from += kThreadsOfPixel * map.strides.channel;
        }
      } else {
        const int row = threadIdx.x % kQuads * 4;
        copy_four<kVector>(to + Shared::at(row, t), map.tensor, at + row,
                           inside ? channels - row : 0);
      }
    }
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
  static_assert(T::kRows == T::kColumns);  // a thread copies the same pixels of both
  typename Rows::Pixels pixels(c, block.begin + Rows::term(), block.end);
  const T tile;
  typename T::Sums sums = {};
  multiply_pipelined<A, B>(
      tile, static_cast<int>((block.end - block.begin + kDepth - 1) / kDepth),
      [&](float* a, float* b) {
        rows.begin(pixels, a);
        columns.begin(pixels, b);
        pixels.advance(c);
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
