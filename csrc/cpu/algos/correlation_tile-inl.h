// The microkernel: a register tile of a two-axis correlation with an image in each lane.
//
//   out[u][v] = init + sum over planes, m, k of
//               tap[plane][m][k] * in[plane][u * rows.out_step + m * rows.tap_step + rows.offset]
//                                           [v * columns.out_step + ...]
//
// `in` and `out` hold vectors; a tap is one float for all lanes (a weight) or a vector (gy, in the
// weight gradient). Up to kTileRows x kTileColumns outputs stay in registers over all planes and
// taps. Rows out of range are left out; columns out of range are zeros in memory around `in`,
// and only taps that reach no real column for any output of the tile are left out.
#pragma once

#include <utility>

namespace convkern::cpu {
namespace {

enum class Taps { broadcast, vector };
enum class Init { zero, bias, accumulate };

// Vectors (or, for broadcast taps, floats) at (plane, row, column) of `at`; strides in floats.
template <class Float>
struct View {
  Float* at;
  int64_t plane, row;
};

struct Correlation {
  Axis rows, columns;
  int64_t planes = 1;
  View<const float> in;  // at row 0, column 0 of the image: zeros may precede it
  View<const float> taps;
  View<float> out;
  int64_t out_column = kLanes;  // floats from one output column to the next
  Init init = Init::zero;
  const float* bias = nullptr;  // one float, for Init::bias
  bool relu = false;
};

template <int kRows, int kColumns, Taps kTaps, bool kSharedRows>
struct Tile {
  // Floats a tap takes in memory.
  static constexpr int64_t kTapSize = kTaps == Taps::vector ? kLanes : 1;

  static CONVKERN_INLINE Vec load_tap(const float* p) {
    if constexpr (kTaps == Taps::vector) {
      return Vec::load(p);
    } else {
      return Vec::broadcast(p);
    }
  }

  // Adds one row of taps to the accumulator rows [kFirst, kLast]. With shared rows, all of them
  // read the input row `in` (row r with the taps r rows before `tap`); otherwise row r reads the
  // input row `in_step` * r floats on, all with the taps at `tap`.
  template <int kFirst, int kLast>
  static CONVKERN_INLINE void add_row(Vec (&sum)[kRows][kColumns], const float* in,
                                      const float* tap, const Correlation& c, Range k) {
    const int64_t column = c.columns.out_step * kLanes;
    const int64_t in_tap = c.columns.tap_step * kLanes;
    const int64_t in_step = c.rows.out_step * c.in.row;
    in += k.begin * in_tap;
    tap += k.begin * kTapSize;
    for (int64_t n = k.size(); n > 0; --n, in += in_tap, tap += kTapSize) {
      if constexpr (kSharedRows) {
        Vec x[kColumns];
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) x[t] = Vec::load(in + t * column);
#pragma GCC unroll 8
        for (int r = kFirst; r <= kLast; ++r) {
          const Vec w = load_tap(tap - r * c.taps.row);
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) sum[r][t] = fma(x[t], w, sum[r][t]);
        }
      } else {
        const Vec w = load_tap(tap);
#pragma GCC unroll 8
        for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) {
            sum[r][t] = fma(Vec::load(in + r * in_step + t * column), w, sum[r][t]);
          }
        }
      }
    }
  }

  // add_row<first, last> for run-time bounds, among the kRows * kRows pairs.
  template <int... kPair>
  static CONVKERN_INLINE void add_row(Vec (&sum)[kRows][kColumns], const float* in,
                                      const float* tap, const Correlation& c, Range k, int first,
                                      int last, std::integer_sequence<int, kPair...>) {
    if (first == 0 && last == kRows - 1) {
      add_row<0, kRows - 1>(sum, in, tap, c, k);
      return;
    }
    auto try_pair = [&](auto pair) __attribute__((always_inline)) {
      constexpr int kFirst = pair() / kRows, kLast = pair() % kRows;
      if constexpr (kFirst <= kLast && kLast - kFirst < kRows - 1) {
        if (first == kFirst && last == kLast) add_row<kFirst, kLast>(sum, in, tap, c, k);
      }
    };
    (try_pair(std::integral_constant<int, kPair>{}), ...);
  }

  // The tile whose first output is row u, column v.
  static CONVKERN_NOINLINE void run(const Correlation& c, int64_t u, int64_t v) {
    Vec sum[kRows][kColumns];
    float* out = c.out.at + u * c.out.row + v * c.out_column;
    const Vec start = c.init == Init::bias ? Vec::broadcast(c.bias) : Vec::zero();
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < kColumns; ++t) {
        sum[r][t] =
            c.init == Init::accumulate ? Vec::load(out + r * c.out.row + t * c.out_column) : start;
      }
    }
    const Range k = taps_in_range(c.columns, {v, v + kColumns});
    const int64_t first_row = c.rows.offset + u * c.rows.out_step;
    const float* in0 =
        c.in.at + first_row * c.in.row + (c.columns.offset + v * c.columns.out_step) * kLanes;
    const int64_t step = c.rows.tap_step;
    // With shared rows, step y reads input row y and serves output row r with tap row y - r;
    // otherwise step y is tap row y.
    const int64_t steps = c.rows.taps == 0 ? 0 : c.rows.taps + (kSharedRows ? kRows - 1 : 0);
    constexpr auto kPairs = std::make_integer_sequence<int, kRows * kRows>{};
    for (int64_t plane = 0; plane < c.planes && !k.empty(); ++plane) {
      const float* in = in0 + plane * c.in.plane;
      const float* tap = c.taps.at + plane * c.taps.plane;
      for (int64_t y = 0; y < steps; ++y) {
        int first = 0, last = kRows - 1;
        const int64_t row = first_row + y * step;
        if constexpr (kSharedRows) {
          if (row < 0 || row >= c.rows.in) continue;
          if (y >= c.rows.taps) first = static_cast<int>(y - c.rows.taps) + 1;
          if (y < last) last = static_cast<int>(y);
        } else {
          while (first <= last && row + first * c.rows.out_step < 0) ++first;
          while (first <= last && row + last * c.rows.out_step >= c.rows.in) --last;
        }
        add_row(sum, in + y * step * c.in.row, tap + y * c.taps.row, c, k, first, last, kPairs);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < kColumns; ++t) {
        const Vec result = c.relu ? relu(sum[r][t]) : sum[r][t];
        result.store(out + r * c.out.row + t * c.out_column);
      }
    }
  }
};

using RunTile = void (*)(const Correlation&, int64_t, int64_t);

template <Taps kTaps, bool kSharedRows, int... kSize>
RunTile tile_of(int rows, int columns, std::integer_sequence<int, kSize...>) {
  static constexpr RunTile table[] = {
      Tile<kSize / Vec::kTileColumns + 1, kSize % Vec::kTileColumns + 1, kTaps,
           kSharedRows>::run...};
  return table[(rows - 1) * Vec::kTileColumns + columns - 1];
}

// The i-th of `parts` near-equal parts of [0, n).
inline Range near_equal_part(int64_t n, int64_t parts, int64_t i) {
  return {n * i / parts, n * (i + 1) / parts};
}

template <Taps kTaps>
void correlate(const Correlation& c) {
  constexpr auto kSizes = std::make_integer_sequence<int, Vec::kTileRows * Vec::kTileColumns>{};
  const bool shared = c.rows.out_step == c.rows.tap_step;
  const int64_t row_parts = ceil_div(c.rows.out, Vec::kTileRows);
  const int64_t column_parts = ceil_div(c.columns.out, Vec::kTileColumns);
  for (int64_t a = 0; a < row_parts; ++a) {
    const Range u = near_equal_part(c.rows.out, row_parts, a);
    for (int64_t b = 0; b < column_parts; ++b) {
      const Range v = near_equal_part(c.columns.out, column_parts, b);
      const int rows = static_cast<int>(u.size()), columns = static_cast<int>(v.size());
      const RunTile run = shared ? tile_of<kTaps, true>(rows, columns, kSizes)
                                 : tile_of<kTaps, false>(rows, columns, kSizes);
      run(c, u.begin, v.begin);
    }
  }
}

}  // namespace
}  // namespace convkern::cpu
