// The sizes of the Fourier transforms that compute a convolution, and what they cost. These are
// pure functions of the problem, which the plans of fft (algos/fft/) and the choice of a kernel
// share.
//
// Along each axis, x and y lie in one period of `points` points. Input x[i] is at i + pad, tap
// w[r] at r * dilation, and output y[u] at u * stride. Then y is the cyclic correlation of x and w,
// gx the cyclic convolution of gy and w, and gw the cyclic correlation of x and gy. A period of
// x_size + pad points is enough for a whole image, because the zeros before x also serve as those
// behind it. Larger images are cut into tiles, which overlap in what they read (overlap-save).
#pragma once

#include "core/axis.h"
#include "core/problem.h"

namespace convkern::cpu {

constexpr int kFftPoints[] = {16, 24, 32, 36, 40, 48, 64, 72, 80, 96, 128};

// Indices of an axis, and the points where they lie: index range.begin at `first`, and the next ones
// `step` points apart.
struct FftPlaces {
  Range range;
  int64_t first, step;

  int64_t at(int64_t index) const { return first + (index - range.begin) * step; }
  int64_t end() const { return range.empty() ? 0 : at(range.end - 1) + 1; }
};

// How one axis is cut into tiles of a pass's outputs or, for grad_weight, of gy.
struct FftAxis {
  Pass pass;
  int64_t x_size, y_size, stride, pad;
  int64_t reach;       // from the first tap to the last, in elements of x
  int64_t points = 0;  // 0: no transform of the table is large enough
  bool whole = false;  // one tile, whose period wraps around
  int64_t tile = 0;    // outputs of a tile
  int64_t tiles = 0;

  FftAxis(Pass pass, int64_t x_size, int64_t y_size, int64_t taps, int64_t stride, int64_t pad,
          int64_t dilation);

  // The indices of x and of y that belong to a tile.
  FftPlaces x(int64_t i) const;
  FftPlaces y(int64_t i) const;

 private:
  bool cuts_x() const { return pass == Pass::grad_input; }
  int64_t base(int64_t i) const;  // the place of y[0] is minus this
};

// The axes of a problem.
struct FftSize {
  FftAxis rows, columns;
  explicit FftSize(const Problem& p);
  bool fits() const { return rows.points > 0 && columns.points > 0; }
};

}  // namespace convkern::cpu
