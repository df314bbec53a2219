// Computes depthwise convolutions with kernels of up to 3x3 taps for direct_channellane. All taps
// stay in registers while the pixels of a strip, which is part of an output row, are computed one
// after the other. With so few products for an output, a register tile of outputs
// (tiles/correlation-inl.h) was measured up to twice as slow, because starting the tile and its
// short rows of taps takes longer than the products.
#pragma once

#include "cpu/tiles/correlation-inl.h"

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
void run_strip(const Correlation& c, const Strip& strip, int64_t outputs) {
  Vec w[kRows][kColumns];
  for (int m = 0; m < kRows; ++m) {
    for (int k = 0; k < kColumns; ++k) {
      w[m][k] = Vec::load_unaligned(strip.taps + m * c.taps.row + k * kLanes);
    }
  }
  const int64_t row = c.rows.tap_step * c.in.row;
  const Real* in = strip.in;
  Real* out = strip.out;
  for (int64_t i = 0; i < outputs; ++i, in += c.in_output, out += c.out_column) {
    if constexpr (kFetches) {
      __builtin_prefetch(in + (kRows - 1) * row + kStripOutputs * c.in_output);
      __builtin_prefetch(out + kStripOutputs * c.out_column, /*write=*/1);
    }
    Vec sum = strip.start;
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 3
      for (int k = 0; k < kColumns; ++k) {
        sum = fma(Vec::load_unaligned(in + m * row + k * c.in_tap), w[m][k], sum);
      }
    }
    (c.relu ? relu(sum) : sum).store_unaligned(out);
  }
}

using RunStrip = void (*)(const Correlation&, const Strip&, int64_t);
template <bool kFetches>
constexpr RunStrip kRunStrip[kStripTaps][kStripTaps] = {
    {run_strip<1, 1, kFetches>, run_strip<1, 2, kFetches>, run_strip<1, 3, kFetches>},
    {run_strip<2, 1, kFetches>, run_strip<2, 2, kFetches>, run_strip<2, 3, kFetches>},
    {run_strip<3, 1, kFetches>, run_strip<3, 2, kFetches>, run_strip<3, 3, kFetches>},
};

// Returns whether strips compute this axis: every output has a tap in range, and there are at most
// kStripTaps taps.
bool in_strips(const Axis& axis) {
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

// Computes a correlation whose axes pass in_strips(), for all of its vectors of channels.
void correlate_strips(const Correlation& c, bool fetches) {
  const bool bias = c.init == Init::bias;
  const auto& run_of = fetches ? kRunStrip<true> : kRunStrip<false>;
  for (int64_t u = 0; u < c.rows.out; ++u) {
    const Range m = taps_in_range(c.rows, {u, u + 1});
    const int64_t in_row = c.rows.offset + u * c.rows.out_step + m.begin * c.rows.tap_step;
    for (int64_t v = 0; v < c.columns.out;) {
      const Range k = taps_in_range(c.columns, {v, v + 1});
      const int64_t end =
          same_taps_until(c.columns, {v, std::min(c.columns.out, v + kStripOutputs)});
      const RunStrip run = run_of[m.size() - 1][k.size() - 1];
      const Real* in = c.in.at + in_row * c.in.row + v * c.in_output + k.begin * c.in_tap;
      const Real* taps = c.taps.at + m.begin * c.taps.row + k.begin * kLanes;
      Real* out = c.out.at + u * c.out.row + v * c.out_column;
      for (int64_t vector = 0; vector < c.vectors(); ++vector) {
        const int64_t lane = c.first_lane(vector);
        const Vec start = bias ? Vec::load_unaligned(c.bias + vector * kLanes) : Vec::zero();
        run(c, {in + lane, taps + vector * c.taps_vector, out + lane, start}, end - v);
      }
      v = end;
    }
  }
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
