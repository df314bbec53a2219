// The microkernel: a register tile of a two-axis correlation of vectors.
//
//   out[channel][u][v] = init + sum over planes, m, k of
//       tap[channel][plane][m][k] * in[plane][u * rows.out_step + m * rows.tap_step + rows.offset]
//                                            [v * columns.out_step + ...]
//
// What the lanes are is the caller's: images (direct_batchlane), neighbouring columns
// (direct_columnlane), where vectors of `in` overlap, or channels (direct_channellane). A tap is
// one float for all lanes (a weight) or a vector (gy, or the weights of channels). Up to
// kTiles.rows x kTiles.columns outputs stay in registers over all planes and taps. The rows of a
// tile are output channels or output rows, whichever share more loads (see correlate()). Input rows
// out of range are left out, and so are taps that reach no real column for any output of the tile;
// where a tap reaches one for some of them, the others multiply a zero in memory around `in` or are
// left out too (see inner_taps()).
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/tiles/operands-inl.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kBlockProducts = 256;  // products summed one after the other

// broadcast: one float for all lanes. vector: one a lane. masked: vectors of which only the first
// lanes count; in the others `in` is not read. in_place: vectors, and `in` has no zeros around its
// columns, so that columns out of range are never read.
enum class Taps { broadcast, vector, masked, in_place };

// What the rows of a tile are. Neighbouring output rows share the input rows that they read where
// rows.out_step is rows.tap_step; channels always do.
enum class TileRows { shared_rows, separate_rows, channels };

struct Correlation {
  Axis rows, columns;
  int64_t channels = 1, planes = 1;
  View<const Real> in;    // at row 0 and what tap 0 of output column 0 reads
  int64_t in_output = 0;  // floats from what one output column reads to the next
  int64_t in_tap = 0;     // and from what one tap reads to the next
  int lanes = kLanes;     // that count, for masked taps
  View<const Real> taps;
  int64_t taps_channel = 0;      // floats from one channel's taps to the next's
  int64_t taps_column = kLanes;  // and, for vectors, from one tap of a row to the next
  View<Real> out;                // its planes are the channels
  int64_t out_column = kLanes;   // floats from one output column to the next
  int64_t vectors = 1;           // in place: adjacent in `in`, `out` and `bias`, each with
  int64_t taps_vector = 0;       // its own taps, so many floats after those of the one before
  Init init = Init::zero;
  const Real* bias = nullptr;  // for Init::bias: a float a channel; in place, a vector
  bool relu = false;
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
    return kInPlace ? Vec::load_unaligned(c.bias) : Vec::broadcast(c.bias + (kChannels ? row : 0));
  }

  // Floats from one tap of a row to the next.
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

  // Floats from the taps of one tile row to those of the next, for the same input row.
  static CONVKERN_INLINE int64_t tap_step(const Correlation& c) {
    return kChannels ? c.taps_channel : -c.taps.row;
  }

  // Adds one row of taps to the tile rows [kFirst, kLast]. With shared input, all of them read the
  // input row `in`, each with its own taps; separate rows read input rows of their own, all with
  // the taps at `tap`.
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

  // Adds the `count` taps before or after the tap at `in` and `tap` to the tile rows [kFirst,
  // kLast]. That tap reaches real columns for all outputs, the j-th from it for all but j, where
  // neighbouring outputs read what neighbouring taps read.
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

  // Adds the taps k of one row, of which `inner` reach real columns for all outputs.
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

  // add_taps<first, last> for run-time bounds, among the kRows * kRows pairs.
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

  // The taps among k that the tile at column v takes together. They are all but the taps at the
  // edges, where these must not be taken, or multiply so many zeros that leaving them out is
  // faster.
  static CONVKERN_INLINE Range inner_taps(const Correlation& c, int64_t v, Range k) {
    constexpr int64_t kWorthwhile = kInPlace ? 1 : 3;  // edge taps, by measurement
    if (!kSharedInput || kColumns <= kWorthwhile || c.in_output != c.in_tap) return k;
    Range inner = taps_all_in_range(c.columns, {v, v + kColumns});
    if (inner.empty()) return k;
    if (inner.begin - k.begin < kWorthwhile) inner.begin = k.begin;
    if (k.end - inner.end < kWorthwhile) inner.end = k.end;
    return inner;
  }

  // Adds the taps of planes [planes.begin, planes.end) to the tile at row u, column v.
  static CONVKERN_INLINE void add_planes(Vec (&sum)[kRows][kColumns], const Correlation& c,
                                         int64_t u, int64_t v, Range planes) {
    const Range k = taps_in_range(c.columns, {v, v + kColumns});
    if (k.empty()) return;
    const Range inner = inner_taps(c, v, k);
    const int64_t first_row = c.rows.offset + u * c.rows.out_step;
    const Real* in0 = c.in.at + first_row * c.in.row + v * c.in_output;
    const int64_t step = c.rows.tap_step;
    // With shared rows, step y reads input row y and serves output row r with tap row y - r;
    // otherwise step y is tap row y.
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

  // The tile whose first output is row u, column v. Planes are summed in blocks of about
  // kBlockProducts products that are then added up, which keeps rounding errors of long sums small.
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
      const bool apply_relu = c.relu && planes.end == c.planes;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) {
          Real* at = out + r * out_step + t * c.out_column;
          const Vec total = accumulate ? add(Vec::load_unaligned(at), sum[r][t]) : sum[r][t];
          (apply_relu ? relu(total) : total).store_unaligned(at);
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

// Returns whether a tile of the output columns v can tell, for each tap, which of them it reaches:
// all of them or, by add_edge(), all but some at one end.
template <TileRows kKind>
bool has_exact_edges(const Correlation& c, Range v) {
  const Range all = taps_all_in_range(c.columns, v), some = taps_in_range(c.columns, v);
  if (some.empty() || (some.begin == all.begin && some.end == all.end)) return true;
  return kKind != TileRows::separate_rows && c.in_output == c.in_tap && !all.empty();
}

// Begins to fetch what the tile of output rows u to u + rows - 1 and columns v reads and none of
// the columns before it, and the memory that it writes: by measurement 15 to 25% faster in place,
// where the images come from memory.
inline void prefetch_tile(const Correlation& c, int64_t u, int64_t rows, Range v) {
  const Range read = inputs_read(c.rows, {u, u + rows});
  const Real* in = c.in.at + (c.columns.taps - 1) * c.in_tap;
  for (int64_t row = read.begin; row < read.end; ++row) {
    for (int64_t column = v.begin; column < v.end; ++column) {
      __builtin_prefetch(in + row * c.in.row + column * c.in_output, /*write=*/0);
    }
  }
  for (int64_t row = u; row < u + rows; ++row) {
    for (int64_t column = v.begin; column < v.end; ++column) {
      __builtin_prefetch(c.out.at + row * c.out.row + column * c.out_column, /*write=*/1);
    }
  }
}

// The tiles of `rows` rows, from output row u or of all channels, along the columns.
template <Taps kTaps, TileRows kKind>
void run_tiles(const Correlation& c, int64_t u, int64_t rows) {
  constexpr auto kSizes = std::make_integer_sequence<int, Vec::kTiles.rows * Vec::kTiles.columns>{};
  const int64_t parts = ceil_div(c.columns.out, Vec::kTiles.columns);
  for (int64_t i = 0; i < parts; ++i) {
    const Range v = near_equal_part(c.columns.out, parts, i);
    if constexpr (kTaps == Taps::in_place) {
      // The vectors of a tile come after each other, so that what is adjacent in memory is read
      // together.
      const bool exact = has_exact_edges<kKind>(c, v);
      const RunTile run = tile_of<kTaps, kKind>(rows, exact ? v.size() : 1, kSizes);
      Correlation part = c;
      const Range next{v.end, std::min(c.columns.out, v.end + v.size())};
      for (int64_t vector = 0; vector < c.vectors; ++vector) {
        prefetch_tile(part, u, rows, next);
        for (int64_t column = v.begin; column < v.end; column += exact ? v.size() : 1) {
          run(part, u, column);
        }
        part.in.at += kLanes;
        part.taps.at += c.taps_vector;
        part.out.at += kLanes;
        part.bias += c.bias == nullptr ? 0 : kLanes;
      }
    } else {
      tile_of<kTaps, kKind>(rows, v.size(), kSizes)(c, u, v.begin);
    }
  }
}

// The correlation of some of the channels.
inline Correlation channel_part(const Correlation& c, Range channels) {
  Correlation part = c;
  part.channels = channels.size();
  part.taps.at += channels.begin * c.taps_channel;
  part.out.at += channels.begin * c.out.plane;
  if (c.bias != nullptr) part.bias += channels.begin;
  return part;
}

// All channels in tiles of channels.
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
  // Tiles of channels share every load of the input; so do tiles of output rows but for their
  // first and last input rows, and these tiles are higher where channels are few. In place, the
  // channels are the lanes.
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
