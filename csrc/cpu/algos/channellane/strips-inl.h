// Computes depthwise convolutions with up to 3x3 taps, where the register tiles (tiles-inl.h) are
// slower. All taps stay in registers while the pixels of a strip, which is part of an output row,
// are computed one after the other.
#pragma once

#include "cpu/algos/channellane/groups-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

constexpr int kStripTaps = 3;          // the most rows, and the most columns, of taps
constexpr int64_t kStripOutputs = 16;  // the most output pixels of a strip

// A strip of one vector of channels. `in` and `taps` point to the first terms in range of the first
// output, `out` to that output, and the sums begin with `start`.
struct Strip {
  const Real *in, *taps;
  Real* out;
  Vec start;
};

// Computes the outputs of a strip with kRows x kColumns taps. With kFetches, it prefetches pixels
// of the last input row a whole strip ahead, which no strip has read yet, and the lines where the
// results of that strip go. With tensors larger than the caches this was measured up to 1.6 times
// as fast (Zen 5).
template <int kRows, int kColumns, bool kFetches>
void run_strip(const GroupCorrelation& c, const Strip& strip, int64_t outputs) {
  Vec w[kRows][kColumns];
  for (int m = 0; m < kRows; ++m) {
    for (int k = 0; k < kColumns; ++k) {
      w[m][k] = Vec::load(strip.taps + (m * c.columns.taps + k) * kLanes);
    }
  }
  const int64_t row = c.rows.tap_step * c.in.row, tap = c.columns.tap_step * c.in.pixel;
  const int64_t step = c.columns.out_step * c.in.pixel;
  const Real* in = strip.in;
  Real* out = strip.out;
  for (int64_t i = 0; i < outputs; ++i, in += step, out += c.out.pixel) {
    if constexpr (kFetches) {
      __builtin_prefetch(in + (kRows - 1) * row + kStripOutputs * step);
      __builtin_prefetch(out + kStripOutputs * c.out.pixel, /*write=*/1);
    }
    Vec sum = strip.start;
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 3
      for (int k = 0; k < kColumns; ++k) {
        sum = fma(Vec::load_unaligned(in + m * row + k * tap), w[m][k], sum);
      }
    }
    (c.bounds != nullptr ? c.bounds->bound(sum) : sum).store_unaligned(out);
  }
}

using RunStrip = void (*)(const GroupCorrelation&, const Strip&, int64_t);
template <bool kFetches>
constexpr RunStrip kRunStrip[kStripTaps][kStripTaps] = {
    {run_strip<1, 1, kFetches>, run_strip<1, 2, kFetches>, run_strip<1, 3, kFetches>},
    {run_strip<2, 1, kFetches>, run_strip<2, 2, kFetches>, run_strip<2, 3, kFetches>},
    {run_strip<3, 1, kFetches>, run_strip<3, 2, kFetches>, run_strip<3, 3, kFetches>},
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

// Returns the end of the outputs from v.begin on that have the same taps in range, at most v.end.
int64_t same_taps_until(const Axis& columns, Range v) {
  const Range k = taps_in_range(columns, {v.begin, v.begin + 1});
  if (k.size() < columns.taps) return v.begin + 1;  // outputs at an edge are computed one by one
  const int64_t last = columns.in - 1 - columns.offset - (columns.taps - 1) * columns.tap_step;
  return std::min(v.end, floor_div(last, columns.out_step) + 1);
}

// Returns whether strips compute the correlation. Tiles load a pixel once for several outputs. They
// are faster unless no or few outputs share a pixel, or the tensors come from memory: then strips
// were measured to be up to 1.3 times as fast, because they write one row after the other.
bool in_strips(const GroupCorrelation& c) {
  const bool shared = c.shares_columns() && c.columns.taps > 2;
  return c.groups.depthwise() && (c.fetches || !shared) && fits_strips(c.rows) &&
         fits_strips(c.columns);
}

// Computes a correlation that passes in_strips().
void correlate_strips(const GroupCorrelation& c) {
  const auto& run_of = c.fetches ? kRunStrip<true> : kRunStrip<false>;
  for (int64_t u = 0; u < c.rows.out; ++u) {
    const Range m = taps_in_range(c.rows, {u, u + 1});
    const int64_t in_row = c.rows.offset + u * c.rows.out_step + m.begin * c.rows.tap_step;
    for (int64_t v = 0; v < c.columns.out;) {
      const Range k = taps_in_range(c.columns, {v, v + 1});
      const int64_t end =
          same_taps_until(c.columns, {v, std::min(c.columns.out, v + kStripOutputs)});
      const RunStrip run = run_of[m.size() - 1][k.size() - 1];
      const int64_t in_column =
          c.columns.offset + v * c.columns.out_step + k.begin * c.columns.tap_step;
      const Real* in = c.in.at + in_row * c.in.row + in_column * c.in.pixel;
      const Real* taps = c.taps + (m.begin * c.columns.taps + k.begin) * kLanes;
      Real* out = c.out.at + u * c.out.row + v * c.out.pixel;
      for (int64_t vector = 0; vector < c.vectors(); ++vector) {
        const int64_t lane = c.first_lane(vector);
        run(c, {in + lane, taps + vector * c.term_taps(), out + lane, c.start(vector)}, end - v);
      }
      v = end;
    }
  }
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
