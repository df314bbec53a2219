// Finds the pixels of the operands and results of implicit GEMMs, for the kernels of every
// arithmetic. Offsets are counted in elements. Their type Index holds the offsets of all tensors.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/problem.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda {

// The strides of a dense tensor, in elements.
template <class Index>
struct Strides {
  Index image, channel, row, column;

  Strides() = default;
  Strides(Layout layout, int64_t channels, int64_t height, int64_t width)
      : image(static_cast<Index>(channels * height * width)),
        channel(static_cast<Index>(layout == Layout::nchw ? height * width : 1)),
        row(static_cast<Index>(layout == Layout::nchw ? width : width * channels)),
        column(static_cast<Index>(layout == Layout::nchw ? 1 : channels)) {}
};

// A number split into three digits. The lower two have the given radices.
template <class Index>
struct Digits {
  Index high;
  int middle, low;

  Digits() = default;
  CONVKERN_HOST_DEVICE Digits(Index number, int middles, int lows)
      : high(number / lows / middles),
        middle(static_cast<int>(number / lows % middles)),
        low(static_cast<int>(number % lows)) {}
  // Adds digit by digit, which avoids the divisions that splitting a sum would take.
  __device__ void add(const Digits& other, int middles, int lows) {
    low += other.low;
    const bool carry = low >= lows;
    low -= carry ? lows : 0;
    middle += other.middle + carry;
    const bool next = middle >= middles;
    middle -= next ? middles : 0;
    high += other.high + next;
  }
};

// Returns the lowest digit of a number in the given radix and removes it from the number.
template <class Number>
__device__ __forceinline__ int take_digit(Number& number, int radix) {
  const auto digit = static_cast<int>(number % radix);
  number /= radix;
  return digit;
}

template <class Index>
struct Pixel {
  Index image;
  int row, column;

  __device__ explicit Pixel(const Digits<Index>& digits)
      : image(digits.high), row(digits.middle), column(digits.low) {}
  __device__ Pixel(Index index, int height, int width)
      : Pixel(Digits<Index>(index, height, width)) {}
};

__device__ __forceinline__ bool is_inside(int at, int size) {
  return static_cast<unsigned>(at) < static_cast<unsigned>(size);
}

// The strides of one group's weights in w (O, C / groups, R, S), in elements and in the order of a
// pass.
struct TapsOf {
  int64_t group, column, term;
  int taps_h, taps_w, S;
  int first_h, first_w;  // indices in w of the first tap
  int step_h, step_w;    // steps in w from one tap to the next

  CONVKERN_HOST_DEVICE int64_t at(int64_t g, int c, int t, int tap_row, int tap_column) const {
    return g * group + c * column + t * term +
           (first_h + tap_row * step_h) * static_cast<int64_t>(S) + first_w + tap_column * step_w;
  }
};

// The sizes of a correlation (core/axis.h) whose results are the pixels of one residue.
template <class Index>
struct CorrelationSizes {
  Strides<Index> in_strides, out_strides;
  Index pixels;       // of one residue, in all images
  int height, width;  // of one residue, in one image, in pixels
  int in_height, in_width;
  int taps_h, taps_w;
  int step_h, step_w, tap_step_h, tap_step_w, offset_h, offset_w;  // as in core/axis.h
  int out_step_h, out_step_w, out_first_h, out_first_w;  // the residue's step and start in out
  int terms, columns;                                    // of one group
  int pixel_tiles, column_tiles, groups;
  // Each split sums `split_steps` steps of the terms. If there are several splits, their sums are
  // written to tensors of `split_size` elements, without bias and epilogue, and add_terms() adds
  // them. Otherwise `split_size` is 0.
  int split_steps;
  Index split_size;

  __device__ Index result_of(Index index) const {
    const Pixel<Index> pixel(index, height, width);
    return pixel.image * out_strides.image +
           (pixel.row * out_step_h + out_first_h) * out_strides.row +
           (pixel.column * out_step_w + out_first_w) * out_strides.column;
  }
};

// The part that a block computes: T::kRows x T::kColumns results. Blocks are numbered by (pixels,
// columns, group, split).
template <class T, class Index>
struct CorrelationBlock {
  Index first_pixel;
  int first_column, group, split;
  int first_step, steps;

  __device__ CorrelationBlock(const CorrelationSizes<Index>& c, int all_steps) {
    unsigned rest = blockIdx.x;
    first_pixel = static_cast<Index>(take_digit(rest, c.pixel_tiles)) * T::kRows;
    first_column = take_digit(rest, c.column_tiles) * T::kColumns;
    group = take_digit(rest, c.groups);
    split = static_cast<int>(rest);
    first_step = split * c.split_steps;
    const int left = all_steps - first_step;
    steps = left < 0 ? 0 : left < c.split_steps ? left : c.split_steps;
  }
};

// The pixel of the input that the first tap of a result reads. It may be outside the image.
template <class Index>
struct InputPixel {
  Index first;  // offset of the given channel
  int row, column;

  InputPixel() = default;
  __device__ InputPixel(const CorrelationSizes<Index>& c, Index index, Index channel) {
    // Pixels beyond the last use the last one's offsets, so that these fit Index.
    const Pixel<Index> pixel(index < c.pixels ? index : c.pixels - 1, c.height, c.width);
    row = pixel.row * c.step_h + c.offset_h;
    column = pixel.column * c.step_w + c.offset_w;
    first = pixel.image * c.in_strides.image + channel * c.in_strides.channel +
            row * c.in_strides.row + column * c.in_strides.column;
    if (index >= c.pixels) row = INT32_MIN;  // outside for every tap
  }
  // Returns whether the pixel `h` rows and `w` columns further on is inside the image.
  __device__ bool has(const CorrelationSizes<Index>& c, int h, int w) const {
    return is_inside(row + h, c.in_height) && is_inside(column + w, c.in_width);
  }
};

}  // namespace convkern::cuda
