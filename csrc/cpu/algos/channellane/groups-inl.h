// Tiles for grouped convolutions with few channels in each group. The lanes of a vector have the
// channels of one or several whole groups, and every lane reads the channels of its own group.
//
//   out[u][v] = init + sum over term, m, k of
//       tap[term][m][k] * read(in[u * rows.out_step + m * rows.tap_step + rows.offset]
//                                [v * columns.out_step + k + columns.offset], term)
//
// Each lane of read(x, i) has the i-th channel of the lane's group. It is a broadcast of one
// channel if the vector is one group, and otherwise a permutation of a vector of x. A permutation
// costs as much as a product, so each one serves all outputs of a register tile that read the
// pixel. Terms out of range are skipped and never read as zero.
#pragma once

#include "cpu/blocking/pixels-inl.h"
#include "cpu/tiles/correlation-inl.h"
#include "cpu/tiles/matmul-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// The number of groups and the channels of each group. Terms are the channels that a pass sums
// over. Columns are the channels in the lanes, which are those of the result or, in grad_weight, of
// gy.
struct Groups {
  int64_t count, terms, columns;
  // Whether images are read and written in place. These are depthwise problems in channels_last
  // with at least a vector of channels and not too many taps. The tiles of other groups read a
  // pixel many times, and pixels that are far apart would compete for a few lines of the cache.
  bool in_place;

  explicit Groups(const Problem& p) : count(p.groups), terms(p.Cg), columns(p.Og()) {
    if (p.pass == Pass::grad_input) std::swap(terms, columns);
    in_place = p.layout == Layout::nhwc && depthwise() && p.C >= kLanes &&
               (p.C % kLanes == 0 || p.R * p.S <= most_taps_in_place(p));
  }
  // Returns the most taps with which pixels that are not whole vectors are computed in place. Most
  // of their vectors lie in two cache lines and take twice as long to load. grad_weight loads each
  // for many taps, and for more if the rows of a tile share no input rows; its limits are measured.
  // In the other passes, sums of more taps are cut into blocks that are added to the outputs. Two
  // vectors that overlap would both add them.
  static int64_t most_taps_in_place(const Problem& p) {
    if (p.pass != Pass::grad_weight) return 2 * kBlockProducts - 1;
    return p.stride_h == p.dilation_h ? 25 : 9;
  }
  bool depthwise() const { return terms == 1 && columns == 1; }
  // Returns whether a vector holds whole groups and reads no more channels than fit one vector.
  bool fit() const { return kLanes % columns == 0 && span() <= kLanes; }
  // Returns how many channels a vector reads. The next vector reads the channels after them.
  int64_t span() const { return kLanes / columns * terms; }
  int64_t vectors() const { return ceil_div(count * columns, kLanes); }
  // These return the channels in the lanes of some vectors, and the channels that they read. The
  // last vector may have and read fewer than the others. In place it has as many, and overlaps the
  // vector before it, so that nothing beyond the last channel is read or written.
  Range channels_of(Range vectors) const {
    const int64_t begin = vectors.begin * kLanes;
    const int64_t end = std::min(count * columns, vectors.end * kLanes);
    return {in_place ? std::min(begin, end - kLanes) : begin, end};
  }
  Range read_by(Range vectors) const {
    if (depthwise()) return channels_of(vectors);
    return {vectors.begin * span(), std::min(count * terms, vectors.end * span())};
  }
};

// Returns whether the tiles of this file compute the problem.
bool fits_group_tiles(const Problem& p) {
  return p.dilation_w == 1 && (p.stride_w <= 2 || p.pass == Pass::grad_input) &&
         p.R * p.S <= kBlockProducts;
}

// How the lanes read the channels of their groups. For each term, of[term] has the permutation: the
// lane of the input vector that each lane reads. It is not used if `broadcast` is set.
struct TermLanes {
  bool broadcast;
  alignas(64) int32_t of[kLanes][kLanes];

  explicit TermLanes(const Groups& groups) : broadcast(groups.columns == kLanes) {
    if (!groups.fit()) return;
    for (int64_t term = 0; term < groups.terms; ++term) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        of[term][lane] = static_cast<int32_t>(lane / groups.columns * groups.terms + term);
      }
    }
  }
};

// The correlation of one vector of channels. Forward and grad_input read `taps` and write `out`.
// grad_weight reads `gy` and adds to `sums`. Pixels of `in` and `gy` are one vector each and
// adjacent in memory.
struct GroupCorrelation {
  Groups groups;
  const TermLanes& lanes;
  Axis rows, columns;
  Pixels<const Real> in{};     // the input from row 0 and column 0 on
  const Real* taps = nullptr;  // the taps as vectors (term, row, column)
  Pixels<Real> out{};
  const Real* bias = nullptr;
  bool relu = false;
  Real* sums = nullptr;  // the sums as vectors (term, row, column)
  Pixels<const Real> gy{};

  int64_t term_taps() const { return rows.taps * columns.taps * kLanes; }
  // Returns the number of terms whose products are summed in one sequence. That is half of them,
  // because a sequence of all can have more than twice the rounding errors of torch. It is at least
  // two terms of a 3x3 kernel, because between blocks the sums of a tile go to memory.
  int64_t block_of_terms() const {
    const int64_t taps = std::max<int64_t>(1, rows.taps * columns.taps);
    const int64_t most = std::clamp<int64_t>(groups.terms * taps / 2, 18, kMostBlock);
    return near_equal_block(groups.terms, std::max<int64_t>(1, most / taps));
  }
};

template <class Body, int... kIndex>
CONVKERN_INLINE void for_each_index(const Body& body, std::integer_sequence<int, kIndex...>) {
  (body(std::integral_constant<int, kIndex>{}), ...);
}

// A register tile of kRows x kColumns pixels of `out` or, in grad_weight, of gy. kStride is the
// step of neighbouring columns in the input.
template <int kRows, int kColumns, int kStride>
struct GroupTile {
  using Pixel = Vec[kRows][kColumns];
  static constexpr int kWidth = kColumns;
  static constexpr int kRunTaps = 3;  // the most neighbouring taps of a row that make a run

  // A run of neighbouring taps and the row of the input that the tile reads with them. A run is
  // worked out once for all terms, because that takes as long as the products of one term.
  struct Run {
    const GroupCorrelation& c;
    const Real* in;
    int64_t column;    // the input column that the tile's first column reads with the first tap
    int64_t tap;       // offset in floats of the first tap, for term 0 and tile row 0
    int64_t tap_step;  // floats from the taps of tile row 1 to those of tile row 0

    // Returns a mask whose bit j says whether the j-th pixel that the tile reads is in the image.
    template <int kReads>
    uint32_t inside() const {
      const int64_t first = std::clamp<int64_t>(-column, 0, kReads);
      const int64_t last = std::clamp<int64_t>(c.columns.in - column, 0, kReads);
      return ((1u << last) - 1) & ~((1u << first) - 1);
    }
  };

  // Returns how many pixels of a row the tile reads with so many taps.
  static constexpr int reads(int taps) { return (kColumns - 1) * kStride + taps; }

  // Calls body(x, k, t) for every tap k and tile column t. x is the vector that they read: each
  // lane has the channel `term` of its group.
  template <int kTaps, bool kBroadcast, class Body>
  static CONVKERN_INLINE void for_each_product(const Real* in, uint32_t inside, int64_t term,
                                               Vec::Lanes lanes, const Body& body) {
    auto read = [&](auto index) CONVKERN_INLINE_LAMBDA {
      constexpr int j = decltype(index)::value;
      if constexpr (j % kStride < kTaps) {
        if ((inside >> j & 1) == 0) return;
        const Real* at = in + j * kLanes;
        const Vec x = held(kBroadcast ? Vec::broadcast(at + term) : Vec::load(at).permuted(lanes));
#pragma GCC unroll 3
        for (int k = j % kStride; k < kTaps; k += kStride) {
          if (j >= k && (j - k) / kStride < kColumns) body(x, k, (j - k) / kStride);
        }
      }
    };
    for_each_index(read, std::make_integer_sequence<int, reads(kTaps)>{});
  }

  // Adds the products of the run's taps for some terms to the tile rows [kFirst, kLast].
  template <int kFirst, int kLast, int kTaps, bool kBroadcast>
  static CONVKERN_INLINE void add_products(Pixel& out, const Run& run, Range terms) {
    const GroupCorrelation& c = run.c;
    const uint32_t inside = run.template inside<reads(kTaps)>();
    const Real* taps = c.taps + terms.begin * c.term_taps() + run.tap;
    for (int64_t term = terms.begin; term < terms.end; ++term, taps += c.term_taps()) {
      Vec w[kRows][kTaps];
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 3
        for (int k = 0; k < kTaps; ++k) w[r][k] = Vec::load(taps - r * run.tap_step + k * kLanes);
      }
      const auto add_product = [&](Vec x, int k, int t) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 2
        for (int r = kFirst; r <= kLast; ++r) out[r][t] = fma(x, w[r][k], out[r][t]);
      };
      for_each_product<kTaps, kBroadcast>(run.in, inside, term, Vec::load_lanes(c.lanes.of[term]),
                                          add_product);
    }
  }

  // Adds the products of the run's taps for all terms to the weights' sums, for `count`
  // neighbouring tiles of gy from the address `gy` on. Tile rows are [kFirst, kLast].
  template <int kFirst, int kLast, int kTaps, bool kBroadcast>
  static CONVKERN_INLINE void add_to_sums(const Run& run, const Real* gy, int64_t count) {
    const GroupCorrelation& c = run.c;
    Real* sums = c.sums + run.tap;
    for (int64_t term = 0; term < c.groups.terms; ++term, sums += c.term_taps()) {
      const Vec::Lanes lanes = Vec::load_lanes(c.lanes.of[term]);
      // If there are enough registers, even and odd columns have separate sums, so that fewer
      // products wait for the one before.
      constexpr int kChains = Vec::kTiles.group_columns > 4 ? 2 : 1;
      Vec w[kChains][kRows][kTaps];
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 3
        for (int k = 0; k < kTaps; ++k) {
          for (auto& chain : w) chain[r][k] = Vec::zero();
        }
      }
      Run tile = run;
      const Real* at = gy;
      for (int64_t i = 0; i < count; ++i) {
        Pixel g;
#pragma GCC unroll 2
        for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) {
            g[r][t] = held(Vec::load(at + r * c.gy.row + t * kLanes));
          }
        }
        const auto add_product = [&](Vec x, int k, int t) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 2
          for (int r = kFirst; r <= kLast; ++r) {
            Vec& sum = w[t % kChains][r][k];
            sum = fma(x, g[r][t], sum);
          }
        };
        for_each_product<kTaps, kBroadcast>(tile.in, tile.template inside<reads(kTaps)>(), term,
                                            lanes, add_product);
        at += kColumns * kLanes;
        tile.in += kColumns * kStride * kLanes;
        tile.column += kColumns * kStride;
      }
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 3
        for (int k = 0; k < kTaps; ++k) {
          Real* sum = sums - r * run.tap_step + k * kLanes;
          const Vec of_run = kChains == 1 ? w[0][r][k] : add(w[0][r][k], w[kChains - 1][r][k]);
          add(Vec::load(sum), of_run).store(sum);
        }
      }
    }
  }

  // Calls body(run, first, last, taps) for the runs that cover all taps. The run is for the tile
  // rows [first, last] and has `taps` taps; these three are constants.
  template <class Body>
  static CONVKERN_INLINE void for_each_run(const GroupCorrelation& c, int64_t u, int64_t v,
                                           const Body& body) {
    using First = std::integral_constant<int, 0>;
    using Last = std::integral_constant<int, kRows - 1>;
    // Step y reads one row of the input. Tile row 0 uses it with tap row y, and tile row 1 with tap
    // row y - shift.
    const int64_t taps = c.rows.taps, tap_row = c.columns.taps * kLanes;
    const int64_t shift = c.rows.out_step / c.rows.tap_step;
    for (int64_t y = 0; y < taps + (kRows - 1) * shift; ++y) {
      const int64_t row = c.rows.offset + u * c.rows.out_step + y * c.rows.tap_step;
      if (row < 0 || row >= c.rows.in) continue;
      const int64_t column = c.columns.offset + v * kStride;
      Run run{c, c.in.at + row * c.in.row + column * kLanes, column, y * tap_row, shift * tap_row};
      for (int64_t left = c.columns.taps; left > 0; left -= kRunTaps) {
        auto rows = [&](auto tap_count) CONVKERN_INLINE_LAMBDA {
          const bool upper = y < taps, lower = kRows == 2 && y >= shift;
          if (upper && lower) {
            body(run, First{}, Last{}, tap_count);
          } else if (upper) {
            body(run, First{}, First{}, tap_count);
          } else if (lower) {
            body(run, Last{}, Last{}, tap_count);
          }
        };
        if (left >= 3) {
          rows(std::integral_constant<int, 3>{});
        } else if (left == 2) {
          rows(std::integral_constant<int, 2>{});
        } else {
          rows(std::integral_constant<int, 1>{});
        }
        run.in += kRunTaps * kLanes;
        run.column += kRunTaps;
        run.tap += kRunTaps * kLanes;
      }
    }
  }

  // Computes the tile's outputs, the first of which is at row u, column v. The terms are summed in
  // blocks, and the blocks are then added up.
  template <bool kBroadcast>
  static CONVKERN_NOINLINE void outputs(const GroupCorrelation& c, int64_t u, int64_t v) {
    Real* first = c.out.at + u * c.out.row + v * c.out.pixel;
    const int64_t terms = c.groups.terms, block = c.block_of_terms();
    for (int64_t term = 0; term < terms; term += block) {
      const Vec start = term == 0 && c.bias != nullptr ? Vec::load_unaligned(c.bias) : Vec::zero();
      Pixel out;
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) out[r][t] = start;
      }
      const int64_t end = std::min(terms, term + block);
      for_each_run(c, u, v,
                   [&](const Run& run, auto from, auto to, auto count) CONVKERN_INLINE_LAMBDA {
                     add_products<from(), to(), count(), kBroadcast>(out, run, {term, end});
                   });
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) {
          Real* at = first + r * c.out.row + t * c.out.pixel;
          const Vec sum = term == 0 ? out[r][t] : add(Vec::load_unaligned(at), out[r][t]);
          (c.relu && end == terms ? relu(sum) : sum).store_unaligned(at);
        }
      }
    }
  }

  // Adds the products of `count` neighbouring tiles of gy to the sums. The first is at row u,
  // column v.
  template <bool kBroadcast>
  static CONVKERN_NOINLINE void weights(const GroupCorrelation& c, int64_t u, int64_t v,
                                        int64_t count) {
    const Real* gy = c.gy.at + u * c.gy.row + v * kLanes;
    for_each_run(c, u, v,
                 [&](const Run& run, auto from, auto to, auto taps) CONVKERN_INLINE_LAMBDA {
                   add_to_sums<from(), to(), taps(), kBroadcast>(run, gy, count);
                 });
  }
};

// Calls body(tile, u, v, count) for tiles that cover the outputs. Each call is for `count`
// neighbouring tiles along row u, from column v on. The step of the columns must be 1 or 2.
template <class Body>
void for_each_group_tile(const Axis& rows, const Axis& columns, const Body& body) {
  const int64_t tile_rows = rows.out_step % rows.tap_step == 0 ? 2 : 1;
  for (int64_t u = 0, height; u < rows.out; u += height) {
    height = std::min(tile_rows, rows.out - u);
    int64_t v = 0;
    auto tiles_of = [&](auto width) {
      constexpr int kColumns = decltype(width)::value;
      const int64_t count = (columns.out - v) / kColumns;
      if (count == 0) return;
      if (height == 2) {
        if (columns.out_step == 1) body(GroupTile<2, kColumns, 1>{}, u, v, count);
        if (columns.out_step == 2) body(GroupTile<2, kColumns, 2>{}, u, v, count);
      } else {
        if (columns.out_step == 1) body(GroupTile<1, kColumns, 1>{}, u, v, count);
        if (columns.out_step == 2) body(GroupTile<1, kColumns, 2>{}, u, v, count);
      }
      v += count * kColumns;
    };
    tiles_of(std::integral_constant<int, Vec::kTiles.group_columns>{});
    if (Vec::kTiles.group_columns > 4) tiles_of(std::integral_constant<int, 4>{});
    tiles_of(std::integral_constant<int, 2>{});
    tiles_of(std::integral_constant<int, 1>{});
  }
}

// Computes the outputs of forward or grad_input.
void correlate_groups(const GroupCorrelation& c) {
  for_each_group_tile(c.rows, c.columns, [&](auto tile, int64_t u, int64_t v, int64_t count) {
    for (; count > 0; --count, v += tile.kWidth) {
      if (c.lanes.broadcast) {
        tile.template outputs<true>(c, u, v);
      } else {
        tile.template outputs<false>(c, u, v);
      }
    }
  });
}

// Adds the products of grad_weight to the sums.
void add_group_weights(const GroupCorrelation& c) {
  for_each_group_tile(c.rows, c.columns, [&](auto tile, int64_t u, int64_t v, int64_t count) {
    if (c.lanes.broadcast) {
      tile.template weights<true>(c, u, v, count);
    } else {
      tile.template weights<false>(c, u, v, count);
    }
  });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
