// The microkernel of the direct kernels: a register tile of a two-axis correlation of vectors.
//
//   out[channel][u][v] = init + sum over planes, m, k of
//       tap[channel][plane][m][k] * in[plane][u * rows.out_step + m * rows.tap_step + rows.offset]
//                                            [v * columns.out_step + ...]
//
// The caller decides what the lanes are. They are images (direct_batchlane), neighbouring columns
// (direct_columnlane, where vectors of `in` overlap) or channels (direct_channellane). A tap is
// either one float for all lanes (a weight) or a vector (gy). Up to kTiles.rows x kTiles.columns
// outputs stay in registers over all planes and taps. The rows of a tile are output channels or
// output rows, whichever share more loads (see correlate()).
//
// Input rows out of range are skipped. So are taps that reach no real column for any output of the
// tile. A tap that reaches one for only some outputs multiplies a zero stored around `in` for the
// others, or is skipped for them (see inner_taps()).
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/tiles/epilogue-inl.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kBlockProducts = 256;  // products summed in one sequence

// How a tap is read. broadcast: one float for all lanes. vector: a float for each lane. masked:
// vectors of which only the first lanes count; `in` is not read in the others. in_place: vectors,
// and `in` has no zeros around its columns, so columns out of range are never read.
enum class Taps { broadcast, vector, masked, in_place };

// The meaning of a tile's rows. Neighbouring output rows share the input rows that they read if
// rows.out_step equals rows.tap_step. Channels always share them.
enum class TileRows { shared_rows, separate_rows, channels };

struct Correlation {
  Axis rows, columns;
  int64_t channels = 1, planes = 1;
  View<const Real> in;    // at row 0, where tap 0 of output column 0 reads
  int64_t in_output = 0;  // floats between the inputs of neighbouring output columns
  int64_t in_tap = 0;     // floats between the inputs of neighbouring taps
  int lanes = kLanes;     // lanes that count, for masked taps
  View<const Real> taps;
  int64_t taps_channel = 0;      // floats between the taps of neighbouring channels
  int64_t taps_column = kLanes;  // floats between the taps of a row, for vectors
  View<Real> out;                // each plane is a channel
  int64_t out_column = kLanes;   // floats between neighbouring output columns
  Init init = Init::zero;
  const Real* bias = nullptr;        // for Init::bias: a float for each channel
  const Epilogue* bounds = nullptr;  // null, or what bounds the sums
};

template <int kRows, int kColumns, Taps kTaps, TileRows kKind>
struct Tile {
  static constexpr bool kChannels = kKind == TileRows::channels;
  static constexpr bool kSharedInput = kKind != TileRows::separate_rows;
  static constexpr bool kInPlace = kTaps == Taps::in_place;

  static CONVKERN_INLINE Vec load_tap(const Real* p) {
    if constexpr (kTaps == Taps::broadcast) {
      return Vec::broadcast(p);
    } else {
      return Vec::load_unaligned(p);
    }
  }

  static CONVKERN_INLINE Vec load_bias(const Correlation& c, int row) {
    return Vec::broadcast(c.bias + (kChannels ? row : 0));
  }

  // Floats between neighbouring taps of one row.
  static CONVKERN_INLINE int64_t tap_size(const Correlation& c) {
    return kTaps == Taps::broadcast ? 1 : c.taps_column;
  }

  static CONVKERN_INLINE Vec load_in(const Real* p, const Correlation& c) {
    if constexpr (kTaps == Taps::masked) {
      return Vec::load_first(p, c.lanes);
    } else {
      return Vec::load_unaligned(p);
    }
  }

  // Floats between the taps of neighbouring tile rows, for the same input row.
  static CONVKERN_INLINE int64_t tap_step(const Correlation& c) {
    return kChannels ? c.taps_channel : -c.taps.row;
  }

  // Adds one row of taps to the tile rows [kFirst, kLast]. With shared input, all tile rows read
  // the input row `in`, each with its own taps. Separate rows each read an input row of their own,
  // and all use the taps at `tap`.
  template <int kFirst, int kLast>
  static CONVKERN_INLINE void add_row(Vec (&sum)[kRows][kColumns], const Real* in, const Real* tap,
                                      const Correlation& c, Range k) {
    const int64_t column = c.in_output, in_tap = c.in_tap, size = tap_size(c);
    const int64_t in_step = c.rows.out_step * c.in.row;
    const int64_t step = tap_step(c);
    in += k.begin * in_tap;
    tap += k.begin * size;
    for (int64_t n = k.size(); n > 0; --n, in += in_tap, tap += size) {
      if constexpr (kSharedInput) {
        Vec x[kColumns];
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) x[t] = held(load_in(in + t * column, c));
#pragma GCC unroll 8
        for (int r = kFirst; r <= kLast; ++r) {
          const Vec w = load_tap(tap + r * step);
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) sum[r][t] = fma(x[t], w, sum[r][t]);
        }
      } else {
        const Vec w = load_tap(tap);
#pragma GCC unroll 8
        for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) {
            sum[r][t] = fma(load_in(in + r * in_step + t * column, c), w, sum[r][t]);
          }
        }
      }
    }
  }

  // Adds up to `count` taps before or after the tap at `in` and `tap` to the tile rows [kFirst,
  // kLast]. That tap reaches real columns for all outputs. The j-th tap from it reaches them for
  // all outputs but j, because neighbouring outputs read the same inputs as neighbouring taps.
  template <bool kBefore, int kFirst, int kLast>
  static CONVKERN_INLINE void add_edge(Vec (&sum)[kRows][kColumns], const Real* in, const Real* tap,
                                       const Correlation& c, int64_t count) {
    const int64_t column = c.in_output, step = tap_step(c), size = tap_size(c);
#pragma GCC unroll 8
    for (int j = 1; j < kColumns; ++j) {
      if (j > count) break;
      in += kBefore ? -column : column;
      tap += kBefore ? -size : size;
      Vec x[kColumns];
#pragma GCC unroll 8
      for (int t = 0; t < kColumns - j; ++t) {
        x[t] = held(load_in(in + (kBefore ? t + j : t) * column, c));
      }
#pragma GCC unroll 8
      for (int r = kFirst; r <= kLast; ++r) {
        const Vec w = load_tap(tap + r * step);
#pragma GCC unroll 8
        for (int t = 0; t < kColumns - j; ++t) {
          Vec& total = sum[r][kBefore ? t + j : t];
          total = fma(x[t], w, total);
        }
      }
    }
  }

  // Adds the taps k of one row. The taps `inner` among them reach real columns for all outputs.
  template <int kFirst, int kLast>
  static CONVKERN_INLINE void add_taps(Vec (&sum)[kRows][kColumns], const Real* in, const Real* tap,
                                       const Correlation& c, Range k, Range inner) {
    if constexpr (kInPlace || kLast - kFirst == kRows - 1) {
      const int64_t last = inner.end - 1, size = tap_size(c);
      add_row<kFirst, kLast>(sum, in, tap, c, inner);
      add_edge<true, kFirst, kLast>(sum, in + inner.begin * c.in_tap, tap + inner.begin * size, c,
                                    inner.begin - k.begin);
      add_edge<false, kFirst, kLast>(sum, in + last * c.in_tap, tap + last * size, c,
                                     k.end - inner.end);
    } else {
      add_row<kFirst, kLast>(sum, in, tap, c, k);  // such rows are few
    }
  }

  // Calls add_taps<first, last>, with bounds that are known only at run time.
  template <int... kPair>
  static CONVKERN_INLINE void add_taps(Vec (&sum)[kRows][kColumns], const Real* in, const Real* tap,
                                       const Correlation& c, Range k, Range inner, int first,
                                       int last, std::integer_sequence<int, kPair...>) {
    if (first == 0 && last == kRows - 1) {
      add_taps<0, kRows - 1>(sum, in, tap, c, k, inner);
      return;
    }
    auto try_pair = [&](auto pair) __attribute__((always_inline)) {
      constexpr int kFirst = pair() / kRows, kLast = pair() % kRows;
      if constexpr (kFirst <= kLast && kLast - kFirst < kRows - 1) {
        if (first == kFirst && last == kLast) add_taps<kFirst, kLast>(sum, in, tap, c, k, inner);
      }
    };
    (try_pair(std::integral_constant<int, kPair>{}), ...);
  }

  // Returns the taps among k that are added for all outputs of the tile at column v. These are all
  // taps, or all but those at the edges. Taps at the edges are left to add_edge() where they must
  // not read out of range, or where they would multiply so many zeros that skipping them is faster.
  static CONVKERN_INLINE Range inner_taps(const Correlation& c, int64_t v, Range k) {
    constexpr int64_t kWorthwhile = kInPlace ? 1 : 3;  // edge taps worth skipping, by measurement
    if (!kSharedInput || kColumns <= kWorthwhile || c.in_output != c.in_tap) return k;
    Range inner = taps_all_in_range(c.columns, {v, v + kColumns});
    if (inner.empty()) return k;
    if (inner.begin - k.begin < kWorthwhile) inner.begin = k.begin;
    if (k.end - inner.end < kWorthwhile) inner.end = k.end;
    return inner;
  }

  // Adds the planes [planes.begin, planes.end) to the tile at row u, column v.
  static CONVKERN_INLINE void add_planes(Vec (&sum)[kRows][kColumns], const Correlation& c,
                                         int64_t u, int64_t v, Range planes) {
    const Range k = taps_in_range(c.columns, {v, v + kColumns});
    if (k.empty()) return;
    const Range inner = inner_taps(c, v, k);
    const int64_t first_row = c.rows.offset + u * c.rows.out_step;
    const Real* in0 = c.in.at + first_row * c.in.row + v * c.in_output;
    const int64_t step = c.rows.tap_step;
    // With shared rows, step y reads input row y, and output row r uses tap row y - r with it.
    // Otherwise step y uses tap row y.
    constexpr bool kSlide = kKind == TileRows::shared_rows;
    const int64_t steps = c.rows.taps == 0 ? 0 : c.rows.taps + (kSlide ? kRows - 1 : 0);
    constexpr auto kPairs = std::make_integer_sequence<int, kRows * kRows>{};
    for (int64_t plane = planes.begin; plane < planes.end; ++plane) {
      const Real* in = in0 + plane * c.in.plane;
      const Real* tap = c.taps.at + plane * c.taps.plane;
      for (int64_t y = 0; y < steps; ++y) {
        int first = 0, last = kRows - 1;
        const int64_t row = first_row + y * step;
        if (kSharedInput && (row < 0 || row >= c.rows.in)) continue;
        if constexpr (kSlide) {
          if (y >= c.rows.taps) first = static_cast<int>(y - c.rows.taps) + 1;
          if (y < last) last = static_cast<int>(y);
        } else if constexpr (!kChannels) {
          while (first <= last && row + first * c.rows.out_step < 0) ++first;
          while (first <= last && row + last * c.rows.out_step >= c.rows.in) --last;
        }
        add_taps(sum, in + y * step * c.in.row, tap + y * c.taps.row, c, k, inner, first, last,
                 kPairs);
      }
    }
  }

  // Computes the tile whose first output is at row u, column v. Planes are summed in blocks of
  // about kBlockProducts products, and the blocks are then added up. This keeps the rounding errors
  // of long sums small.
  static CONVKERN_NOINLINE void run(const Correlation& c, int64_t u, int64_t v) {
    Real* out = c.out.at + u * c.out.row + v * c.out_column;
    const int64_t out_step = kChannels ? c.out.plane : c.out.row;
    const int64_t taps = std::max<int64_t>(1, c.rows.taps * c.columns.taps);
    const int64_t block = std::max<int64_t>(1, kBlockProducts / taps);
    for (int64_t plane = 0; plane < c.planes; plane += block) {
      Vec sum[kRows][kColumns];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Vec start = c.init == Init::bias && plane == 0 ? load_bias(c, r) : Vec::zero();
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) sum[r][t] = start;
      }
      const Range planes{plane, std::min(c.planes, plane + block)};
      add_planes(sum, c, u, v, planes);
      const bool accumulate = c.init == Init::accumulate || plane > 0;
      const Epilogue* bounds = planes.end == c.planes ? c.bounds : nullptr;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) {
          Real* at = out + r * out_step + t * c.out_column;
          const Vec total = accumulate ? add(Vec::load_unaligned(at), sum[r][t]) : sum[r][t];
          (bounds != nullptr ? bounds->bound(total) : total).store_unaligned(at);
        }
      }
    }
  }
};

using RunTile = void (*)(const Correlation&, int64_t, int64_t);

template <Taps kTaps, TileRows kKind, int... kSize>
RunTile tile_of(int64_t rows, int64_t columns, std::integer_sequence<int, kSize...>) {
  static constexpr RunTile table[] = {
      Tile<kSize / Vec::kTiles.columns + 1, kSize % Vec::kTiles.columns + 1, kTaps, kKind>::run...};
  return table[(rows - 1) * Vec::kTiles.columns + columns - 1];
}

// Returns whether a tile of the output columns v can skip all columns that are out of range. It can
// if each tap reaches real columns for all outputs, or for all but some at one end (add_edge()).
template <TileRows kKind>
bool has_exact_edges(const Correlation& c, Range v) {
  const Range all = taps_all_in_range(c.columns, v), some = taps_in_range(c.columns, v);
  if (some.empty() || (some.begin == all.begin && some.end == all.end)) return true;
  return kKind != TileRows::separate_rows && c.in_output == c.in_tap && !all.empty();
}

// Computes tiles of `rows` rows along the columns. The rows start at output row u, or are all
// channels.
template <Taps kTaps, TileRows kKind>
void run_tiles(const Correlation& c, int64_t u, int64_t rows) {
  constexpr auto kSizes = std::make_integer_sequence<int, Vec::kTiles.rows * Vec::kTiles.columns>{};
  const int64_t parts = ceil_div(c.columns.out, Vec::kTiles.columns);
  for (int64_t i = 0; i < parts; ++i) {
    const Range v = near_equal_part(c.columns.out, parts, i);
    const bool whole = kTaps != Taps::in_place || has_exact_edges<kKind>(c, v);
    const int64_t columns = whole ? v.size() : 1;
    const RunTile run = tile_of<kTaps, kKind>(rows, columns, kSizes);
    for (int64_t column = v.begin; column < v.end; column += columns) run(c, u, column);
  }
}

// Returns the correlation for the given channels only.
inline Correlation channel_part(const Correlation& c, Range channels) {
  Correlation part = c;
  part.channels = channels.size();
  part.taps.at += channels.begin * c.taps_channel;
  part.out.at += channels.begin * c.out.plane;
  if (c.bias != nullptr) part.bias += channels.begin;
  return part;
}

// Computes all channels in tiles whose rows are channels.
template <Taps kTaps>
void correlate_channels(const Correlation& c) {
  const int64_t parts = ceil_div(c.channels, Vec::kTiles.rows);
  for (int64_t i = 0; i < parts; ++i) {
    const Correlation part = channel_part(c, near_equal_part(c.channels, parts, i));
    for (int64_t u = 0; u < c.rows.out; ++u) {
      run_tiles<kTaps, TileRows::channels>(part, u, part.channels);
    }
  }
}

template <Taps kTaps>
void correlate(const Correlation& c) {
  const bool shared_rows = c.rows.out_step == c.rows.tap_step;
  // Tiles of channels share every load of the input. Tiles of output rows share all but their first
  // and last input rows, and they have more rows when there are few channels. In place, the
  // channels are the lanes, so the rows must be output rows.
  if constexpr (kTaps != Taps::in_place) {
    if (c.channels > (shared_rows ? 2 : 1)) return correlate_channels<kTaps>(c);
  }
  const int64_t parts = ceil_div(c.rows.out, Vec::kTiles.rows);
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    const Correlation part = channel_part(c, {channel, channel + 1});
    for (int64_t i = 0; i < parts; ++i) {
      const Range u = near_equal_part(c.rows.out, parts, i);
      if (shared_rows) {
        run_tiles<kTaps, TileRows::shared_rows>(part, u.begin, u.size());
      } else {
        run_tiles<kTaps, TileRows::separate_rows>(part, u.begin, u.size());
      }
    }
  }
}

}  // namespace
}  // namespace convkern::cpu
