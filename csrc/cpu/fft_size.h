// The sizes of the Fourier transforms that compute a convolution, and what they cost. These are
// pure functions of the problem, which the plans of fft (algos/fft/) and the choice of a kernel
// share.
//
// Along each axis, x, w and y lie in one period of `points` points: input x[i] at i, output y[u] at
// u * stride, and tap w[r] at r * dilation - pad, which may wrap around to the end of the period.
// Then y is the cyclic correlation of x and w, gx the cyclic convolution of gy and w, and gw the
// cyclic correlation of x and gy. A period of x_size + pad points is enough for a whole image,
// because the zeros behind x also serve as those before it. Larger images are cut into tiles, which
// overlap in what they read (overlap-save). Their taps are at r * dilation.
#pragma once

#include "core/axis.h"
#include "core/problem.h"

namespace convkern::cpu {

constexpr int kFftPoints[] = {16, 24, 32, 36, 40, 48, 64, 72, 80, 96, 128};

// Indices of an axis, and the points where they lie: index range.begin at `first`, and the next
// ones `step` points apart. Those of taps may wrap around at `points`; those of x and y never do. A
// tile may have none, if it has terms in the padding only; `first` is then 0.
struct FftPlaces {
  Range range;
  int64_t first, step, points;

  int64_t at(int64_t index) const {
    const int64_t place = first + (index - range.begin) * step;
    return place < points ? place : place - points;
  }
  bool wraps() const { return first + (range.size() - 1) * step >= points; }
  // Returns a number that all places are less than.
  int64_t end() const { return range.empty() ? 0 : wraps() ? points : at(range.end - 1) + 1; }
};

// How one axis is cut into tiles of a pass's outputs or, for grad_weight, of gy.
struct FftAxis {
  Pass pass;
  int64_t x_size, y_size, tap_count, stride, pad, dilation;
  int64_t reach;       // from the first tap to the last, in elements of x
  int64_t points = 0;  // 0: no transform of the table is large enough
  bool whole = false;  // one tile, whose period wraps around
  int64_t tile = 0;    // outputs of a tile
  int64_t tiles = 0;

  FftAxis(Pass pass, int64_t x_size, int64_t y_size, int64_t taps, int64_t stride, int64_t pad,
          int64_t dilation);

  // The indices of x and of y that belong to a tile, and the taps.
  FftPlaces x(int64_t i) const;
  FftPlaces y(int64_t i) const;
  FftPlaces taps() const;
  // Numbers that the places of x and of y are less than, in every tile.
  int64_t x_end() const;
  int64_t y_end() const;

 private:
  bool cuts_x() const { return pass == Pass::grad_input; }
  int64_t base(int64_t i) const;  // the place of y[0] is minus this
  int64_t tap_shift() const;      // the place of w[0] is minus this, modulo the points
};

// The axes of a problem.
struct FftSize {
  FftAxis rows, columns;
  explicit FftSize(const Problem& p);
  bool fits() const { return rows.points > 0 && columns.points > 0; }
};

// Returns whether vectors should hold channels rather than images. Only depthwise problems allow
// channels.
bool fft_lanes_are_channels(const Problem& p, int lanes);

// Returns the most chunks that grad_weight cuts a batch of so many units into, for each of `slices`
// parts of gw.
int64_t fft_chunks(int64_t units, int64_t slices);

constexpr double kFftCallCycles = 40000;  // of a call of fft beyond those of a direct kernel

// Estimates the cycles of a pass by fft and by the direct sum on one thread. They were fitted to
// measurements (AVX-512, Zen 5) and are right if they are wrong in proportion.
double fft_cycles(const Problem& p, int lanes);
double direct_cycles(const Problem& p, int lanes);

}  // namespace convkern::cpu
