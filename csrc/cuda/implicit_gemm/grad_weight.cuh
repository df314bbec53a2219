// The kernels of grad_weight: channels of gy are the rows of a matrix product, channels of x its
// columns, and pixels its terms, for each tap on its own. The pixels are split between blocks,
// whose partial sums a second kernel adds in order, so that the result does not depend on timing.
//
// Blocks are (columns, rows, tap, group, split). Not yet run on a GPU.
#pragma once

#include "cuda/elements.cuh"
#include "cuda/implicit_gemm/correlate.cuh"

namespace convkern::cuda {

// Where a tensor's pixel is that belongs to pixel (row, column) of gy.
template <class Index>
struct PixelMap {
  const float* tensor;
  Strides<Index> strides;
  int height, width;
  int step_h, step_w, offset_h, offset_w;
};

template <class Index>
struct WeightSums {
  PixelMap<Index> gy, x;  // x of tap 0
  float* partial;         // (split, group, tap, row, column)
  Index pixels, split_pixels;
  int height, width;  // of gy
  int taps, taps_w, tap_step_h, tap_step_w;
  int rows, columns;  // of a group
  int row_tiles, column_tiles, groups;
};

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

  PixelMap<Index> map;
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
  __device__ bool locate(Index index, Index end, int height, int width, Index& at) const {
    const Pixel<Index> pixel(index, height, width);
    const int h = pixel.row * map.step_h + map.offset_h;
    const int w = pixel.column * map.step_w + map.offset_w;
    at = pixel.image * map.strides.image + channel * map.strides.channel + h * map.strides.row +
         w * map.strides.column;
    return index < end && is_inside(h, map.height) && is_inside(w, map.width);
  }
};

template <class T, class Index, Layout kLayout, int kVector>
__global__ void __launch_bounds__(T::kThreads,
                                  resident_blocks<Index, kLayout, kVector>(T::kThreads))
    sum_weights(const WeightSums<Index> c) {
  using Rows = ChannelCopies<T, Index, kLayout, kVector, T::kRows>;
  using Columns = ChannelCopies<T, Index, kLayout, kVector, T::kColumns>;
  using A = typename Rows::Shared;
  using B = typename Columns::Shared;
  unsigned rest = blockIdx.x;
  const int first_column = static_cast<int>(rest % c.column_tiles) * T::kColumns;
  rest /= c.column_tiles;
  const int first_row = static_cast<int>(rest % c.row_tiles) * T::kRows;
  rest /= c.row_tiles;
  const int tap = static_cast<int>(rest % c.taps);
  rest /= c.taps;
  const int group = static_cast<int>(rest % c.groups);
  const Index split = rest / c.groups;

  const Index begin = split * c.split_pixels;
  const Index all = begin + c.split_pixels, end = all < c.pixels ? all : c.pixels;
  const Rows rows{c.gy, static_cast<Index>(group) * c.rows + first_row, c.rows - first_row};
  PixelMap<Index> x = c.x;
  x.offset_h += tap / c.taps_w * c.tap_step_h;
  x.offset_w += tap % c.taps_w * c.tap_step_w;
  const Columns columns{x, static_cast<Index>(group) * c.columns + first_column,
                        c.columns - first_column};
  Index pixel = begin;
  const T tile;
  typename T::Sums sums = {};
  multiply_pipelined<T, A, B>(
      tile, static_cast<int>((end - begin + kDepth - 1) / kDepth),
      [&](float* a, float* b) {
        rows.begin(pixel, end, c.height, c.width, a);
        columns.begin(pixel, end, c.height, c.width, b);
        pixel += kDepth;
      },
      sums);

  const Index matrix = (split * c.groups + group) * c.taps + tap;
  float* out = c.partial + matrix * c.rows * c.columns;
#pragma unroll
  for (int i = 0; i < kThreadRows; ++i) {
    const int row = first_row + tile.template row<A>(i);
    if (row >= c.rows) continue;
#pragma unroll
    for (int j = 0; j < T::kThreadColumns; ++j) {
      const int column = first_column + tile.template column<B>(j);
      if (column < c.columns) out[static_cast<Index>(row) * c.columns + column] = sums[i][j];
    }
  }
}

// gw (O, C / groups, R, S) = the sum of the splits, in order and in double.
__global__ void __launch_bounds__(kElementThreads)
    add_splits(const float* partial, int splits, int64_t size, int taps, int rows, int columns,
               float* gw) {
  for_each_element(size, [&](int64_t i) {
    const int64_t tap = i % taps, column = i / taps % columns;
    const int64_t row = i / taps / columns % rows, group = i / taps / columns / rows;
    const int64_t from = ((group * taps + tap) * rows + row) * columns + column;
    double sum = 0;
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * size + from];
    gw[i] = static_cast<float>(sum);
  });
}

}  // namespace convkern::cuda
