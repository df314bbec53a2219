// Cuts the outputs of grouped convolutions into register tiles or strips.
#pragma once

#include "cpu/algos/channellane/strips-inl.h"
#include "cpu/algos/channellane/tiles-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

constexpr int kLess = 4;  // columns of the tiles that are narrower than the widest

// Calls body(columns) with the widest tile that has at most n columns.
template <class Body>
CONVKERN_INLINE void with_columns(int64_t n, const Body& body) {
  constexpr int kMost = Vec::kTiles.group_columns;
  if (n >= kMost) return body(Constant<kMost>{});
  if (n >= kLess) return body(Constant<kLess>{});
  if (n >= 2) return body(Constant<2>{});
  body(Constant<1>{});
}

// Returns how many of the widest tiles a row of n columns begins with. Tiles of 4 columns follow,
// of which the last ends with the row and overlaps the one before it. A tile takes about as long as
// its columns and half a column more, or a whole one if it is narrow.
inline int64_t count_widest_tiles(int64_t n) {
  constexpr int64_t kMost = Vec::kTiles.group_columns;
  int64_t best = 0, least = INT64_MAX;
  for (int64_t widest = n / kMost; widest >= 0; --widest) {
    const int64_t others = ceil_div(n - widest * kMost, kLess);
    const int64_t cost = widest * (2 * kMost + 1) + others * (2 * kLess + 2);
    if (cost >= least) continue;
    least = cost;
    best = widest;
  }
  return best;
}

// Calls body(inside) with a constant that says whether all columns that the outputs v read are in
// memory. Problems that are not depthwise read a buffer that has all of these columns.
template <Terms kTerms, class Body>
CONVKERN_INLINE void with_inside(const Axis& axis, Range v, const Body& body) {
  if constexpr (kTerms == Terms::own) {
    const int64_t first = axis.offset + v.begin * axis.out_step;
    const int64_t last =
        axis.offset + (v.end - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step;
    if (first < 0 || last >= axis.in) return body(std::false_type{});
  }
  body(std::true_type{});
}

// Calls body(terms, step, rows, u) for the rows of tiles of a correlation. The first three are
// those of the tiles, as constants, and u is the first output row. The lanes read their own
// channels only if kDepthwise, and other lanes only if the numbers are Real.
template <bool kDepthwise, class Number, class Body>
void for_each_row_of_tiles(const GroupCorrelation<Number>& c, const Body& body) {
  const int64_t most = c.rows.out_step % c.rows.tap_step == 0 ? 2 : 1;
  const auto with_step = [&](auto terms, auto step) {
    for (int64_t u = 0; u < c.rows.out; u += most) {
      if (std::min(most, c.rows.out - u) == 2) {
        body(terms, step, Constant<2>{}, u);
      } else {
        body(terms, step, Constant<1>{}, u);
      }
    }
  };
  const auto with_terms = [&](auto terms) {
    if (!c.shares_columns()) {
      if constexpr (terms() == Terms::own) with_step(terms, Constant<0>{});
    } else if (c.columns.out_step == 1) {
      with_step(terms, Constant<1>{});
    } else {
      with_step(terms, Constant<2>{});
    }
  };
  if constexpr (kDepthwise) {
    if (c.groups.depthwise()) return with_terms(std::integral_constant<Terms, Terms::own>{});
  }
  if constexpr (std::is_same_v<Number, Real>) {
    if (c.lanes.broadcast) return with_terms(std::integral_constant<Terms, Terms::broadcast>{});
    with_terms(std::integral_constant<Terms, Terms::permuted>{});
  }
}

// Computes the outputs of forward or grad_input. If the columns are not whole tiles, the last tile
// ends with them and overlaps the one before it. Both compute the same numbers.
template <class Number>
void correlate_groups(const GroupCorrelation<Number>& c) {
  if (in_strips(c)) return correlate_strips(c);
  const int64_t n = c.columns.out, widest = count_widest_tiles(n) * Vec::kTiles.group_columns;
  for_each_row_of_tiles<true>(c, [&](auto terms, auto step, auto rows, int64_t u) {
    for (int64_t v = 0; v < n;) {
      with_columns(v < widest ? widest - v : std::min<int64_t>(n, kLess), [&](auto columns) {
        constexpr int kColumns = columns();
        const int64_t column = std::min(v, n - kColumns);
        v = column + kColumns;
        with_inside<terms()>(c.columns, {column, column + kColumns}, [&](auto inside) {
          for (int64_t vector = 0; vector < c.vectors(); ++vector) {
            GroupTile<Number, rows(), kColumns, step(), terms(), inside()>::outputs(c, u, column,
                                                                                    vector);
          }
        });
      });
    }
  });
}

// Adds the products of grad_weight to the sums. The problem must not be depthwise.
inline void add_group_weights(const GroupCorrelation<Real>& c) {
  for_each_row_of_tiles<false>(c, [&](auto terms, auto step, auto rows, int64_t u) {
    for (int64_t v = 0; v < c.columns.out;) {
      with_columns(c.columns.out - v, [&](auto columns) {
        constexpr int kColumns = columns();
        const int64_t count = (c.columns.out - v) / kColumns;
        GroupTile<Real, rows(), kColumns, step(), terms(), true>::weights(c, u, v, count);
        v += count * kColumns;
      });
    }
  });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
