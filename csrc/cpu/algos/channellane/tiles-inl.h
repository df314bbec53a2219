// The register tiles of direct_channellane (groups-inl.h). A pixel is loaded, and permuted to the
// lanes, once for each run of up to 5 neighbouring taps of a row. It serves all outputs of the tile
// that it is a term of in the run: neighbouring columns with neighbouring taps, if the stride is 1
// or 2, and two rows if they read the same rows of the input. Of depthwise problems with more than
// 3x3 taps this measured 1.2 to 2.4 times as fast as one load for each product.
//
// Rows out of range are skipped. Columns out of range read as zero: they are zeros in a buffer, or
// are read from a vector of zeros where depthwise problems are read in place.
#pragma once

#include "cpu/algos/channellane/groups-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// How the lanes read a term. own: each lane its own channel, in depthwise problems. broadcast: all
// lanes the same channel. permuted: each lane a channel of its group.
enum class Terms { own, broadcast, permuted };

template <class Number>
alignas(64) constexpr Number kZeros[kLanes] = {};

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

template <class Body, int... kIndex>
CONVKERN_INLINE void for_each_index(const Body& body, std::integer_sequence<int, kIndex...>) {
  (body(Constant<kIndex>{}), ...);
}

// A tile of kRows x kColumns pixels of `out` or, in grad_weight, of gy. kStep is the step of
// neighbouring columns in the input, 1 or 2, if neighbouring taps are one column apart. Otherwise
// it is 0, and every product loads its pixel. kInside says that the tile reads no columns out of
// range.
template <class Number, int kRows, int kColumns, int kStep, Terms kTerms, bool kInside>
struct GroupTile {
  using Correlation = GroupCorrelation<Number>;
  using Pixel = Vec[kRows][kColumns];
  static constexpr bool kOwn = kTerms == Terms::own;
  // The most neighbouring taps of a row that make a run.
  static constexpr int kRunTaps = kOwn ? Vec::kTiles.depthwise_taps : 3;

  // A run of neighbouring taps and the row of the input that the tile reads with them. A run is
  // worked out once for all terms, because that takes as long as the products of one term.
  struct Run {
    const Correlation& c;
    const Number* in;
    int64_t column;    // the input column that the tile's first column reads with the first tap
    int64_t tap;       // offset in floats of the first tap, for term 0 and tile row 0
    int64_t tap_step;  // floats from the taps of tile row 1 to those of tile row 0
  };

  // Returns the vector at a pixel, which is `column` in the image and `offset` columns from `in`.
  static CONVKERN_INLINE Vec read(const Correlation& c, const Number* in, int64_t offset,
                                  int64_t column, int64_t term, Vec::Lanes lanes) {
    if constexpr (kOwn) {
      const bool inside =
          kInside || static_cast<uint64_t>(column) < static_cast<uint64_t>(c.columns.in);
      return held(load_vector(inside ? in + offset * c.in.pixel : kZeros<Number>));
    } else if constexpr (kTerms == Terms::broadcast) {
      return held(Vec::broadcast(in + offset * kLanes + term));
    } else {
      return held(Vec::load(in + offset * kLanes).permuted(lanes));
    }
  }

  // Calls body(x, k, t) for every tap k and tile column t. x is the vector that they read.
  template <int kTaps, class Body>
  static CONVKERN_INLINE void for_each_product(const Correlation& c, const Number* in,
                                               int64_t column, int64_t term, Vec::Lanes lanes,
                                               const Body& body) {
    if constexpr (kStep == 0) {
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; ++k) {
#pragma GCC unroll 8
        for (int t = 0; t < kColumns; ++t) {
          const int64_t offset = t * c.columns.out_step + k * c.columns.tap_step;
          body(read(c, in, offset, column + offset, term, lanes), k, t);
        }
      }
    } else {
      const auto read_pixel = [&](auto index) CONVKERN_INLINE_LAMBDA {
        constexpr int j = decltype(index)::value;
        if constexpr (j % kStep < kTaps) {
          const Vec x = read(c, in, j, column + j, term, lanes);
#pragma GCC unroll 8
          for (int k = j % kStep; k < kTaps; k += kStep) {
            if (j >= k && (j - k) / kStep < kColumns) body(x, k, (j - k) / kStep);
          }
        }
      };
      constexpr int kReads = (kColumns - 1) * kStep + kTaps;
      for_each_index(read_pixel, std::make_integer_sequence<int, kReads>{});
    }
  }

  // Calls body(sum, r, t) for every vector of the tile.
  template <class Body>
  static CONVKERN_INLINE void for_each(Pixel& sums, const Body& body) {
#pragma GCC unroll 2
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int t = 0; t < kColumns; ++t) body(sums[r][t], r, t);
    }
  }

  // Adds the products of the run's taps for some terms to the tile rows [kFirst, kLast].
  template <int kFirst, int kLast, int kTaps>
  static CONVKERN_INLINE void add_products(Pixel& out, const Run& run, Range terms) {
    const Correlation& c = run.c;
    const auto add_term = [&](int64_t term) CONVKERN_INLINE_LAMBDA {
      const Real* taps = c.taps + run.tap + term * c.term_taps();
      Vec w[kRows][kTaps];
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; ++k) w[r][k] = Vec::load(taps - r * run.tap_step + k * kLanes);
      }
      const auto add_product = [&](Vec x, int k, int t) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 2
        for (int r = kFirst; r <= kLast; ++r) out[r][t] = fma(x, w[r][k], out[r][t]);
      };
      for_each_product<kTaps>(c, run.in, run.column, term, Vec::load_lanes(c.lanes.of[term]),
                              add_product);
    };
    if constexpr (kOwn) {
      add_term(0);
    } else {
      for (int64_t term = terms.begin; term < terms.end; ++term) add_term(term);
    }
  }

  // Adds the products of the run's taps for all terms to the weights' sums, for `count`
  // neighbouring tiles of gy from the address `gy` on. Tile rows are [kFirst, kLast].
  template <int kFirst, int kLast, int kTaps>
  static CONVKERN_INLINE void add_to_sums(const Run& run, const Real* gy, int64_t count) {
    const Correlation& c = run.c;
    Real* sums = c.sums + run.tap;
    for (int64_t term = 0; term < c.groups.terms; ++term, sums += c.term_taps()) {
      const Vec::Lanes lanes = Vec::load_lanes(c.lanes.of[term]);
      // If there are enough registers and few sums, even and odd columns have separate sums, so
      // that fewer products wait for the one before.
      constexpr int kChains = Vec::kTiles.group_columns > 4 && kRows * kTaps < 8 ? 2 : 1;
      Vec w[kChains][kRows][kTaps];
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; ++k) {
          for (auto& chain : w) chain[r][k] = Vec::zero();
        }
      }
      const Number* in = run.in;
      const Real* at = gy;
      int64_t column = run.column;
      for (int64_t i = 0; i < count; ++i) {
        Pixel g;
#pragma GCC unroll 2
        for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
          for (int t = 0; t < kColumns; ++t) {
            g[r][t] = held(Vec::load_unaligned(at + r * c.gy.row + t * kLanes));
          }
        }
        const auto add_product = [&](Vec x, int k, int t) CONVKERN_INLINE_LAMBDA {
#pragma GCC unroll 2
          for (int r = kFirst; r <= kLast; ++r) {
            Vec& sum = w[t % kChains][r][k];
            sum = fma(x, g[r][t], sum);
          }
        };
        for_each_product<kTaps>(c, in, column, term, lanes, add_product);
        const int64_t step = kColumns * c.columns.out_step;
        at += kColumns * kLanes;
        in += step * kLanes;
        column += step;
      }
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
#pragma GCC unroll 8
        for (int k = 0; k < kTaps; ++k) {
          Real* sum = sums - r * run.tap_step + k * kLanes;
          const Vec of_run = kChains == 1 ? w[0][r][k] : add(w[0][r][k], w[kChains - 1][r][k]);
          add(Vec::load(sum), of_run).store(sum);
        }
      }
    }
  }

  // Calls body(run, first, last, taps) for the runs that cover the rows m of taps, for one vector
  // of channels. The run is for the tile rows [first, last] and has `taps` taps; these three are
  // constants. Of wide kernels, taps that reach no column of the image are left out.
  template <class Body>
  static CONVKERN_INLINE void for_each_run(const Correlation& c, int64_t u, int64_t v,
                                           int64_t vector, Range m, const Body& body) {
    using First = Constant<0>;
    using Last = Constant<kRows - 1>;
    // Step y reads one row of the input. Tile row 0 uses it with tap row y, and tile row 1 with tap
    // row y - shift.
    const int64_t tap_row = c.columns.taps * kLanes;
    const int64_t shift = c.row_shift;
    const int64_t first_column = c.columns.offset + v * c.columns.out_step;
    const int64_t pixel = kOwn ? c.in.pixel : kLanes;
    const Number* in = c.in.at + c.first_lane(vector);
    const int64_t taps = vector * c.groups.terms * c.term_taps();
    Range columns{0, c.columns.taps};
    if (kOwn && columns.end > kRunTaps) columns = taps_in_range(c.image_columns, {v, v + kColumns});
    for (int64_t y = m.begin; y < m.end + (kRows - 1) * shift; ++y) {
      const int64_t row = c.rows.offset + u * c.rows.out_step + y * c.rows.tap_step;
      if (row < 0 || row >= c.rows.in) continue;
      const bool upper = y < m.end, lower = kRows == 2 && y >= m.begin + shift;
      for (int64_t k = columns.begin, count; k < columns.end; k += count) {
        const int64_t left = columns.end - k;
        count = left <= kRunTaps ? left : left < 2 * kRunTaps ? (left + 1) / 2 : kRunTaps;
        const int64_t column = first_column + k * c.columns.tap_step;
        const Run run{c, in + row * c.in.row + column * pixel, column,
                      taps + y * tap_row + k * kLanes, shift * tap_row};
        const auto with_taps = [&](auto index) CONVKERN_INLINE_LAMBDA {
          using Count = Constant<decltype(index)::value + 1>;
          if (count != Count::value) return;
          if (upper && lower) {
            body(run, First{}, Last{}, Count{});
          } else if (upper) {
            body(run, First{}, First{}, Count{});
          } else if (lower) {
            body(run, Last{}, Last{}, Count{});
          }
        };
        for_each_index(with_taps, std::make_integer_sequence<int, kRunTaps>{});
      }
    }
  }

  // Prefetches the memory that the next tile of the row writes, and the pixels that no tile before
  // it has read.
  static CONVKERN_INLINE void fetch_next(const Correlation& c, int64_t u, int64_t v, int64_t lane) {
    const int64_t rows = kRows * c.rows.out_step, columns = kColumns * c.columns.out_step;
    const int64_t row = c.rows.offset + (u + kRows - 1) * c.rows.out_step +
                        (c.rows.taps - 1) * c.rows.tap_step + 1 - rows;
    const int64_t column = c.columns.offset + (v + kColumns - 1) * c.columns.out_step +
                           (c.columns.taps - 1) * c.columns.tap_step + 1;
    for (int64_t m = 0; m < rows; ++m) {
      const Number* in = c.in.at + lane + (row + m) * c.in.row + column * c.in.pixel;
      for (int64_t k = 0; k < columns; ++k) __builtin_prefetch(in + k * c.in.pixel);
    }
    for (int r = 0; r < kRows; ++r) {
      Number* out = c.out.at + lane + (u + r) * c.out.row + (v + kColumns) * c.out.pixel;
      for (int t = 0; t < kColumns; ++t) __builtin_prefetch(out + t * c.out.pixel, /*write=*/1);
    }
  }

  // Computes the tile's outputs in a vector of channels. The first is at row u, column v. The
  // products are summed in blocks, and the blocks are then added up.
  static CONVKERN_NOINLINE void outputs(const Correlation& c, int64_t u, int64_t v,
                                        int64_t vector) {
    Number* first = c.out.at + c.first_lane(vector) + u * c.out.row + v * c.out.pixel;
    if constexpr (kOwn) {
      if (c.fetches) fetch_next(c, u, v, c.first_lane(vector));
    }
    const Vec start = c.start(vector);
    Pixel out, total;
    // The second block writes the totals before they are read. Compilers do not see this and warn;
    // this tells them that they are written, and does nothing.
    asm("" : "=m"(total));
    for_each(out, [&](Vec& sum, int, int) CONVKERN_INLINE_LAMBDA { sum = start; });
    for (int64_t block = 0; block < c.blocks; ++block) {
      if (block > 0) {
        for_each(out, [&](Vec& sum, int r, int t) CONVKERN_INLINE_LAMBDA {
          total[r][t] = block == 1 ? sum : add(total[r][t], sum);
          sum = Vec::zero();
        });
      }
      Range terms{0, c.groups.terms}, m{0, c.rows.taps};
      if (c.blocks > 1) {
        Range& cut = kOwn ? m : terms;
        cut = near_equal_part(cut.end, c.blocks, block);
      }
      for_each_run(c, u, v, vector, m,
                   [&](const Run& run, auto from, auto to, auto count) CONVKERN_INLINE_LAMBDA {
                     add_products<from(), to(), count()>(out, run, terms);
                   });
    }
    if (c.blocks > 1) {
      for_each(out,
               [&](Vec& sum, int r, int t) CONVKERN_INLINE_LAMBDA { sum = add(total[r][t], sum); });
    }
    if (c.bounds != nullptr) {
      for_each(out, [&](Vec& sum, int, int) CONVKERN_INLINE_LAMBDA { sum = c.bounds->bound(sum); });
    }
    for_each(out, [&](Vec& sum, int r, int t) CONVKERN_INLINE_LAMBDA {
      store_vector(first + r * c.out.row + t * c.out.pixel, sum);
    });
  }

  // Adds the products of `count` neighbouring tiles of gy to the sums. The first is at row u,
  // column v.
  static CONVKERN_NOINLINE void weights(const Correlation& c, int64_t u, int64_t v, int64_t count) {
    const Real* gy = c.gy.at + u * c.gy.row + v * kLanes;
    for_each_run(c, u, v, 0, {0, c.rows.taps},
                 [&](const Run& run, auto from, auto to, auto taps)
                     CONVKERN_INLINE_LAMBDA { add_to_sums<from(), to(), taps()>(run, gy, count); });
  }
};

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
