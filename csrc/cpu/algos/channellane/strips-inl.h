// Computes depthwise convolutions with up to 3x3 taps. All taps stay in registers while the pixels
// of a strip, which is part of an output row, are computed one after the other.
#pragma once

#include "cpu/algos/channellane/groups-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

constexpr int kStripTaps = 3;          // the most rows, and the most columns, of taps
constexpr int64_t kStripOutputs = 16;  // the most output pixels of a strip

// The output columns [begin, end) of a strip, and the taps k that they have in range. All have the
// same ones unless the strip slides (slide_strip). Then k has all three taps, and the first output
// may lack the first tap and the last output the last tap.
struct StripColumns {
  int64_t begin, end;
  Range k;
  bool slides, lacks_first, lacks_last;
};

// A strip of one vector of channels. `in` and `taps` point to the terms of the first tap of the
// first output, `out` to that output, and the sums begin with `start`.
template <class Number>
struct Strip {
  const Number* in;
  const Real* taps;
  Number* out;
  Vec start;
};

// Computes the outputs of a strip with kRows x kColumns taps. With kFetches, it prefetches pixels
// of the last input row a whole strip ahead, which no strip has read yet, and the lines where the
// results of that strip go. With tensors larger than the caches this was measured up to 1.6 times
// as fast (Zen 5).
template <class Number, int kRows, int kColumns, bool kFetches>
void run_strip(const GroupCorrelation<Number>& c, const Strip<Number>& strip,
               const StripColumns& columns) {
  Vec w[kRows][kColumns];
  for (int m = 0; m < kRows; ++m) {
    for (int k = 0; k < kColumns; ++k) {
      w[m][k] = Vec::load(strip.taps + (m * c.columns.taps + k) * kLanes);
    }
  }
  const int64_t row = c.rows.tap_step * c.in.row, tap = c.columns.tap_step * c.in.pixel;
  const int64_t step = c.columns.out_step * c.in.pixel;
  const Number* in = strip.in;
  Number* out = strip.out;
  for (int64_t v = columns.begin; v < columns.end; ++v, in += step, out += c.out.pixel) {
    if constexpr (kFetches) {
      __builtin_prefetch(in + (kRows - 1) * row + kStripOutputs * step);
      __builtin_prefetch(out + kStripOutputs * c.out.pixel, /*write=*/1);
    }
    Vec sum = strip.start;
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 3
      for (int k = 0; k < kColumns; ++k) {
        sum = fma(load_vector(in + m * row + k * tap), w[m][k], sum);
      }
    }
    store_vector(out, c.bounds != nullptr ? c.bounds->bound(sum) : sum);
  }
}

// Computes the outputs of a strip with kRows x 3 taps that are one column apart. Neighbouring
// outputs are kStep columns apart, 1 or 2. Each pixel is loaded once and serves all outputs that it
// is a term of.
template <class Number, int kStep, int kRows, bool kFetches>
void slide_strip(const GroupCorrelation<Number>& c, const Strip<Number>& strip,
                 const StripColumns& columns) {
  Vec w[kRows][3];
  for (int m = 0; m < kRows; ++m) {
    for (int k = 0; k < 3; ++k) w[m][k] = Vec::load(strip.taps + (m * 3 + k) * kLanes);
  }
  const int64_t row = c.rows.tap_step * c.in.row, pixel = c.in.pixel;
  const Number* in = strip.in;
  Number* out = strip.out;
  const auto store = [&](Vec sum) CONVKERN_INLINE_LAMBDA {
    store_vector(out, c.bounds != nullptr ? c.bounds->bound(sum) : sum);
    out += c.out.pixel;
  };
  // `sum` is of the output that takes the next pixel with its last tap, and `next` of the output
  // after it. Before the first output they take the pixels of its first two taps.
  Vec sum = strip.start, next = strip.start;
  if (!columns.lacks_first) {
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) sum = fma(load_vector(in + m * row), w[m][0], sum);
  }
  in += pixel;
#pragma GCC unroll 3
  for (int m = 0; m < kRows; ++m) {
    const Vec x = held(load_vector(in + m * row));
    sum = fma(x, w[m][1], sum);
    if constexpr (kStep == 1) next = fma(x, w[m][0], next);
  }
  in += pixel;
  for (int64_t v = columns.begin + columns.lacks_last; v < columns.end; ++v) {
    if constexpr (kFetches) {
#pragma GCC unroll 4
      for (int i = 0; i < kStep * kStep; ++i) {  // as many rows and columns are new for each output
        const int64_t ahead = kStripOutputs * kStep - 2 + i % kStep;
        __builtin_prefetch(in + std::max(0, kRows - 1 - i / kStep) * row + ahead * pixel);
      }
      __builtin_prefetch(out + kStripOutputs * c.out.pixel, /*write=*/1);
    }
    Vec after = strip.start;
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
      const Vec x = held(load_vector(in + m * row));
      sum = fma(x, w[m][2], sum);
      next = fma(x, w[m][kStep == 1 ? 1 : 0], next);
      if constexpr (kStep == 1) after = fma(x, w[m][0], after);
    }
    in += pixel;
    store(sum);
    sum = next;
    next = after;
    if (kStep == 2 && (v + 1 < columns.end || columns.lacks_last)) {
#pragma GCC unroll 3
      for (int m = 0; m < kRows; ++m) sum = fma(load_vector(in + m * row), w[m][1], sum);
      in += pixel;
    }
  }
  if (columns.lacks_last) store(sum);
}

template <class Number>
using RunStrip = void (*)(const GroupCorrelation<Number>&, const Strip<Number>&,
                          const StripColumns&);
template <class Number, bool kFetches>
constexpr RunStrip<Number> kRunStrip[kStripTaps][kStripTaps] = {
    {run_strip<Number, 1, 1, kFetches>, run_strip<Number, 1, 2, kFetches>,
     run_strip<Number, 1, 3, kFetches>},
    {run_strip<Number, 2, 1, kFetches>, run_strip<Number, 2, 2, kFetches>,
     run_strip<Number, 2, 3, kFetches>},
    {run_strip<Number, 3, 1, kFetches>, run_strip<Number, 3, 2, kFetches>,
     run_strip<Number, 3, 3, kFetches>},
};

template <class Number, bool kFetches>
constexpr RunStrip<Number> kSlideStrip[2][kStripTaps] = {
    {slide_strip<Number, 1, 1, kFetches>, slide_strip<Number, 1, 2, kFetches>,
     slide_strip<Number, 1, 3, kFetches>},
    {slide_strip<Number, 2, 1, kFetches>, slide_strip<Number, 2, 2, kFetches>,
     slide_strip<Number, 2, 3, kFetches>},
};

// Returns whether strips can compute this axis: every output has a tap in range, and there are at
// most kStripTaps taps.
bool fits_strips(const Axis& axis) {
  if (axis.taps < 1 || axis.taps > kStripTaps) return false;
  // If taps are further apart than the axis is long, outputs between them may have no tap in range.
  if (axis.taps > 1 && axis.tap_step > axis.in) return false;
  return !taps_in_range(axis, {0, 1}).empty() &&
         !taps_in_range(axis, {axis.out - 1, axis.out}).empty();
}

// Returns the strip that begins with output column v and has at most `most` outputs. Where it may
// slide, three taps that are one column apart are taken so by at least `least_sliding` outputs. The
// outputs may have no tap in range.
StripColumns strip_from(const Axis& axis, int64_t v, int64_t most, bool may_slide,
                        int64_t least_sliding) {
  const auto taps_of = [&](int64_t output) { return taps_in_range(axis, {output, output + 1}); };
  const Range k = taps_of(v);
  // Outputs before this one have their last tap in range.
  const int64_t last = axis.in - 1 - axis.offset - (axis.taps - 1) * axis.tap_step;
  const int64_t end = std::min({axis.out, v + most, floor_div(last, axis.out_step) + 1});
  if (may_slide && axis.taps == 3 && k.begin <= 1 && k.end == 3) {
    const bool lacks_last = end < std::min(axis.out, v + most) && taps_of(end).size() == 2;
    if (end + lacks_last - v >= least_sliding) {
      return {v, end + lacks_last, {0, 3}, true, k.begin == 1, lacks_last};
    }
  }
  // Other outputs at an edge are computed one by one.
  return {v, k.size() < axis.taps ? v + 1 : end, k, false, false, false};
}

// Returns the most outputs of a strip, if the strips of a row are about equally long.
int64_t strip_outputs(const Axis& columns) {
  return ceil_div(columns.out, ceil_div(columns.out, kStripOutputs));
}

// Returns whether strips compute the correlation.
template <class Number>
bool in_strips(const GroupCorrelation<Number>& c) {
  return c.groups.depthwise() && fits_strips(c.rows) && fits_strips(c.columns);
}

// Calls body(columns, m, u, in, tap) for the strips of all rows whose outputs have taps in range.
// The outputs are in row u, and m are the rows of their taps. `in` is the first channel of the
// pixel that the first output reads with its first tap, whose number is `tap`.
template <class Number, class Body>
void for_each_strip(const GroupCorrelation<Number>& c, bool may_slide, int64_t least_sliding,
                    const Body& body) {
  const int64_t most = strip_outputs(c.columns);
  for (int64_t u = 0; u < c.rows.out; ++u) {
    const Range m = taps_in_range(c.rows, {u, u + 1});
    const int64_t in_row = c.rows.offset + u * c.rows.out_step + m.begin * c.rows.tap_step;
    for (int64_t v = 0; v < c.columns.out;) {
      const StripColumns columns = strip_from(c.columns, v, most, may_slide, least_sliding);
      const int64_t in_column =
          c.columns.offset + v * c.columns.out_step + columns.k.begin * c.columns.tap_step;
      v = columns.end;
      if (m.empty() || columns.k.empty()) continue;
      body(columns, m, u, c.in.at + in_row * c.in.row + in_column * c.in.pixel,
           m.begin * c.columns.taps + columns.k.begin);
    }
  }
}

// Computes a correlation that passes in_strips().
template <class Number>
void correlate_strips(const GroupCorrelation<Number>& c) {
  const auto& run_of = c.fetches ? kRunStrip<Number, true> : kRunStrip<Number, false>;
  const auto& slide_of = c.fetches ? kSlideStrip<Number, true> : kSlideStrip<Number, false>;
  for_each_strip(
      c, c.shares_columns(), /*least_sliding=*/1,
      [&](const StripColumns& columns, Range m, int64_t u, const Number* in, int64_t tap) {
        const RunStrip<Number> run = columns.slides ? slide_of[c.columns.out_step - 1][m.size() - 1]
                                                    : run_of[m.size() - 1][columns.k.size() - 1];
        const Real* taps = c.taps + tap * kLanes;
        Number* out = c.out.at + u * c.out.row + columns.begin * c.out.pixel;
        for (int64_t vector = 0; vector < c.vectors(); ++vector) {
          const int64_t lane = c.first_lane(vector);
          run(c, {in + lane, taps + vector * c.term_taps(), out + lane, c.start(vector)}, columns);
        }
      });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
