// The parts that the kernels of grad_weight share. For each tap there is one matrix product: its
// rows are channels of gy, its columns channels of x, and its terms pixels. The pixels are split
// between blocks. A second kernel adds their partial sums in a fixed order, so that the result does
// not depend on timing.
#pragma once

#include <cstdint>

#include "core/scalar_types.h"
#include "cuda/elements.cuh"
#include "cuda/gemm/geometry.cuh"
#include "cuda/launch.cuh"

namespace convkern::cuda {

// Finds the pixel of a tensor that belongs to pixel (row, column) of gy.
template <class Element, class Index>
struct PixelMap {
  const Element* tensor;
  Strides<Index> strides;
  int height, width;
  int step_h, step_w, offset_h, offset_w;

  // Sets `at` to the offset of channel 0 of the pixel. Returns whether the pixel is inside the
  // tensor.
  __device__ bool locate(const Pixel<Index>& pixel, Index& at) const {
    const int h = pixel.row * step_h + offset_h, w = pixel.column * step_w + offset_w;
    at = pixel.image * strides.image + h * strides.row + w * strides.column;
    return is_inside(h, height) && is_inside(w, width);
  }
};

template <class Element, class Index>
struct WeightSums {
  PixelMap<Element, Index> gy, x;  // x is shifted to tap 0
  float* partial;                  // (split, group, tap, row, column)
  Index pixels, split_pixels;
  int height, width;     // of gy
  Digits<Index> stride;  // pixels of gy that are summed at a time
  int taps, taps_w, tap_step_h, tap_step_w;
  int rows, columns;  // of one group
  int row_tiles, column_tiles, groups;
};

// The part that a block computes: T::kRows x T::kColumns sums. Blocks are numbered by (columns,
// rows, tap, group, split).
template <class T, class Index>
struct WeightBlock {
  int first_row, first_column, tap, group;
  Index split, begin, end;  // begin, end: pixels

  template <class Element>
  __device__ explicit WeightBlock(const WeightSums<Element, Index>& c) {
    unsigned rest = blockIdx.x;
    first_column = take_digit(rest, c.column_tiles) * T::kColumns;
    first_row = take_digit(rest, c.row_tiles) * T::kRows;
    tap = take_digit(rest, c.taps);
    group = take_digit(rest, c.groups);
    split = rest;
    begin = split * c.split_pixels;
    const Index all = begin + c.split_pixels;
    end = all < c.pixels ? all : c.pixels;
  }
  template <class Element>
  __device__ PixelMap<Element, Index> x_of_tap(const WeightSums<Element, Index>& c) const {
    PixelMap<Element, Index> x = c.x;
    x.offset_h += tap / c.taps_w * c.tap_step_h;
    x.offset_w += tap % c.taps_w * c.tap_step_w;
    return x;
  }
  template <class Element>
  __device__ float* partial(const WeightSums<Element, Index>& c) const {
    return c.partial + ((split * c.groups + group) * c.taps + tap) * c.rows * c.columns;
  }
};

// Computes gw (O, C / groups, R, S) as the sum of the splits, in the wide type. kLanes threads
// share the splits of an element. The order of addition depends on the number of splits alone.
// Elements are visited in the order of the partial sums, because there are more of those than
// results.
template <class Element, class Sum, int kLanes>
__global__ void __launch_bounds__(kElementThreads)
    add_splits(const Sum* partial, int splits, int64_t size, int taps, int rows, int columns,
               Element* gw) {
  constexpr int kElements = kElementThreads / kLanes;  // of one block
  auto* sums = dynamic_shared<Wide<Sum>>();            // (lane, element)
  const int element = threadIdx.x % kElements, lane = threadIdx.x / kElements;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kElements;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kElements; first < size; first += step) {
    const int64_t i = first + element;
    Wide<Sum> sum = 0;
    if (i < size) {
#pragma unroll 8
      for (int64_t split = lane; split < splits; split += kLanes) sum += partial[split * size + i];
    }
    if constexpr (kLanes > 1) {
      __syncthreads();  // all threads have read the previous sums
      sums[threadIdx.x] = sum;
      __syncthreads();
      if (lane > 0) continue;
#pragma unroll
      for (int other = 1; other < kLanes; ++other) sum += sums[other * kElements + element];
    }
    if (i >= size) continue;
    auto place = [&](auto number) {  // (group, tap, row, column)
      const auto column = number % columns, rest = number / columns;
      const auto row = rest % rows, tap = rest / rows % taps, group = rest / rows / taps;
      return static_cast<int64_t>(((group * rows + row) * columns + column) * taps + tap);
    };
    gw[size <= INT32_MAX ? place(static_cast<uint32_t>(i)) : place(i)] = from_double<Element>(sum);
  }
}

constexpr int kManySplits = 16;  // only small results have so many

template <class Element, class Sum>
void launch_add_splits(const Sum* partial, int64_t splits, int64_t size, int64_t taps, int64_t rows,
                       int64_t columns, void* gw, const Executor& executor) {
  constexpr int kLanes = 32;
  const bool many = splits >= kManySplits;
  LaunchShape shape = element_shape(size * (many ? kLanes : 1));
  if (many) shape.shared_bytes = kElementThreads * static_cast<int>(sizeof(Wide<Sum>));
  launch(many ? add_splits<Element, Sum, kLanes> : add_splits<Element, Sum, 1>, shape, executor,
         partial, static_cast<int>(splits), size, static_cast<int>(taps), static_cast<int>(rows),
         static_cast<int>(columns), static_cast<Element*>(gw));
}

}  // namespace convkern::cuda
