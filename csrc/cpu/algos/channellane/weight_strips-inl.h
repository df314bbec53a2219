// Computes the weights' gradient of depthwise convolutions with up to 3x3 taps. The sums of all
// weights of a vector of channels stay in registers while the pixels of a strip, which is part of a
// row of gy, are read one after the other.
#pragma once

#include "cpu/algos/channellane/strips-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// A strip of one vector of channels. `in` points to the first terms in range of the strip's first
// pixel of gy, and `sums` to the sums of their weights.
template <class Number>
struct WeightStrip {
  const Number *in, *gy;
  Real* sums;
};

// Adds the sums of a strip, which are short and have small rounding errors, to those in memory.
template <int kRows, int kColumns>
CONVKERN_INLINE void add_sums(const Vec (&of_strip)[kRows][kColumns], int64_t taps, Real* sums) {
  for (int m = 0; m < kRows; ++m) {
    for (int k = 0; k < kColumns; ++k) {
      Real* sum = sums + (m * taps + k) * kLanes;
      add(Vec::load(sum), of_strip[m][k]).store(sum);
    }
  }
}

// Adds the products of a strip with kRows x kColumns taps. With kFetches, it prefetches pixels of
// gy and of the last input row a whole strip ahead.
template <class Number, int kRows, int kColumns, bool kFetches>
void add_strip(const GroupCorrelation<Number>& c, const WeightStrip<Number>& strip,
               const StripColumns& columns) {
  Vec sums[kRows][kColumns];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = Vec::zero();
  }
  const int64_t row = c.rows.tap_step * c.in.row, tap = c.columns.tap_step * c.in.pixel;
  const int64_t step = c.columns.out_step * c.in.pixel;
  const Number *in = strip.in, *gy = strip.gy;
  for (int64_t v = columns.begin; v < columns.end; ++v, in += step, gy += c.gy.pixel) {
    if constexpr (kFetches) {
      __builtin_prefetch(in + (kRows - 1) * row + kStripOutputs * step);
      __builtin_prefetch(gy + kStripOutputs * c.gy.pixel);
    }
    const Vec g = held(load_vector(gy));
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 3
      for (int k = 0; k < kColumns; ++k) {
        sums[m][k] = fma(load_vector(in + m * row + k * tap), g, sums[m][k]);
      }
    }
  }
  add_sums(sums, c.columns.taps, strip.sums);
}

// Adds the products of a strip that slides and has at least two pixels, which are one column apart.
// Each pixel of the input is loaded once.
template <class Number, int kRows, bool kFetches>
void slide_along(const GroupCorrelation<Number>& c, const WeightStrip<Number>& strip,
                 const StripColumns& columns) {
  Vec sums[kRows][3], g[3];
  for (auto& row : sums) {
    for (Vec& sum : row) sum = Vec::zero();
  }
  const int64_t row = c.rows.tap_step * c.in.row;
  const Number *in = strip.in, *gy = strip.gy;
  // Adds the products of a column of the input with the taps [kFirst, kLast]. Tap k takes g[k], the
  // pixel of gy that is k columns before.
  const auto add_column = [&](auto first, auto last) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 3
    for (int m = 0; m < kRows; ++m) {
      const Vec x = held(load_vector(in + m * row));
#pragma GCC unroll 3
      for (int k = decltype(first)::value; k <= decltype(last)::value; ++k) {
        sums[m][k] = fma(x, g[k], sums[m][k]);
      }
    }
  };
  const auto next_column = [&]() CONVKERN_INLINE_LAMBDA {
    in += c.in.pixel;
    g[2] = g[1];
    g[1] = g[0];
  };
  const auto load_gy = [&]() CONVKERN_INLINE_LAMBDA {
    g[0] = held(load_vector(gy));
    gy += c.gy.pixel;
  };
  using First = std::integral_constant<int, 0>;
  using Second = std::integral_constant<int, 1>;
  using Last = std::integral_constant<int, 2>;
  load_gy();
  if (!columns.lacks_first) add_column(First{}, First{});
  next_column();
  load_gy();
  add_column(First{}, Second{});
  next_column();
  for (int64_t v = columns.begin + 2; v < columns.end; ++v) {
    if constexpr (kFetches) {
      __builtin_prefetch(in + (kRows - 1) * row + kStripOutputs * c.in.pixel);
      __builtin_prefetch(gy + kStripOutputs * c.gy.pixel);
    }
    load_gy();
    add_column(First{}, Last{});
    next_column();
  }
  add_column(Second{}, Last{});
  next_column();
  if (!columns.lacks_last) add_column(Last{}, Last{});
  add_sums(sums, c.columns.taps, strip.sums);
}

template <class Number>
using AddStrip = void (*)(const GroupCorrelation<Number>&, const WeightStrip<Number>&,
                          const StripColumns&);
template <class Number, bool kFetches>
constexpr AddStrip<Number> kAddStrip[kStripTaps][kStripTaps] = {
    {add_strip<Number, 1, 1, kFetches>, add_strip<Number, 1, 2, kFetches>,
     add_strip<Number, 1, 3, kFetches>},
    {add_strip<Number, 2, 1, kFetches>, add_strip<Number, 2, 2, kFetches>,
     add_strip<Number, 2, 3, kFetches>},
    {add_strip<Number, 3, 1, kFetches>, add_strip<Number, 3, 2, kFetches>,
     add_strip<Number, 3, 3, kFetches>},
};
template <class Number, bool kFetches>
constexpr AddStrip<Number> kSlideAlong[kStripTaps] = {slide_along<Number, 1, kFetches>,
                                                      slide_along<Number, 2, kFetches>,
                                                      slide_along<Number, 3, kFetches>};

// Adds the products of the weights' gradient, whose kernel has at most kStripTaps x kStripTaps
// taps, to c.sums: vectors (vector of channels, row, column) from the first of c.channels on.
template <class Number>
void add_weight_strips(const GroupCorrelation<Number>& c) {
  const auto& add_of = c.fetches ? kAddStrip<Number, true> : kAddStrip<Number, false>;
  const auto& slide_of = c.fetches ? kSlideAlong<Number, true> : kSlideAlong<Number, false>;
  const bool may_slide = c.columns.tap_step == 1 && c.columns.out_step == 1;
  for_each_strip(
      c, may_slide, /*least_sliding=*/2,
      [&](const StripColumns& columns, Range m, int64_t u, const Number* in, int64_t tap) {
        const AddStrip<Number> run =
            columns.slides ? slide_of[m.size() - 1] : add_of[m.size() - 1][columns.k.size() - 1];
        const Number* gy = c.gy.at + u * c.gy.row + columns.begin * c.gy.pixel;
        Real* sums = c.sums + tap * kLanes;
        for (int64_t vector = 0; vector < c.vectors(); ++vector) {
          const int64_t lane = c.first_lane(vector);
          run(c, {in + lane, gy + lane, sums + vector * c.term_taps()}, columns);
        }
      });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
