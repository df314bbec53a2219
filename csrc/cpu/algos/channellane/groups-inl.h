// Grouped convolutions with few channels in each group, depthwise ones among them. The lanes of a
// vector have the channels of one or several whole groups, and every lane reads the channels of its
// own group.
//
//   out[u][v] = init + sum over term, m, k of
//       tap[term][m][k] * read(in[u * rows.out_step + m * rows.tap_step + rows.offset]
//                                [v * columns.out_step + k * columns.tap_step + columns.offset],
//                              term)
//
// Each lane of read(x, i) has the i-th channel of the lane's group.
#pragma once

#include "cpu/blocking/pixels-inl.h"
#include "cpu/blocking/tasks-inl.h"
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
  // with at least a vector of channels, except for some of grad_weight. The tiles of other groups
  // read a pixel many times, and pixels that are far apart would compete for a few lines of the
  // cache.
  bool in_place;

  explicit Groups(const Problem& p) : count(p.groups), terms(p.Cg), columns(p.Og()) {
    if (p.pass == Pass::grad_input) std::swap(terms, columns);
    in_place = p.layout == Layout::nhwc && depthwise() && p.C >= kLanes &&
               (p.C % kLanes == 0 || p.pass != Pass::grad_weight || p.R * p.S <= most_taps(p));
  }
  // Returns the most taps with which grad_weight reads pixels in place that are not whole vectors.
  // Most of their vectors lie in two cache lines and take twice as long to load. It loads each for
  // many taps, and for more if the rows of a tile share no input rows (measured).
  static int64_t most_taps(const Problem& p) { return p.stride_h == p.dilation_h ? 25 : 9; }
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

// Returns whether the tiles of tiles-inl.h compute a problem that is not depthwise.
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

// The correlation of one vector of channels or, in place, of some adjacent channels. Forward and
// grad_input read `taps` and write `out`. grad_weight reads `gy` and adds to `sums`. Inputs and
// outputs are of type Number, and are computed as Real.
template <class Number>
struct GroupCorrelation {
  const Groups groups;
  const TermLanes& lanes;
  const Axis rows, columns;
  // The columns without the zeros that a buffer has around the image.
  const Axis image_columns;
  const int64_t row_shift;     // rows of taps between two output rows that read the same input row
  const int64_t blocks;        // see count_blocks()
  Pixels<const Number> in{};   // the input from row 0 and column 0 of the axes on
  const Real* taps = nullptr;  // the taps as vectors (vector of channels, term, row, column)
  Pixels<Number> out{};
  const Real* bias = nullptr;
  const Epilogue* bounds = nullptr;  // null, or what bounds the sums
  int64_t channels = kLanes;         // adjacent channels, at least a vector
  bool fetches = false;              // whether strips and tiles prefetch, see fetches_pixels()
  Real* sums = nullptr;              // the sums as vectors (vector of channels, term, row, column)
  Pixels<const Number> gy{};

  GroupCorrelation(const Groups& groups, const TermLanes& lanes, const Axis& rows,
                   const Axis& columns, const Axis& image_columns)
      : groups(groups),
        lanes(lanes),
        rows(rows),
        columns(columns),
        image_columns(image_columns),
        row_shift(rows.out_step / rows.tap_step),
        blocks(count_blocks()) {}

  // Returns whether neighbouring output columns read the same pixels with neighbouring taps, as the
  // tiles take them.
  bool shares_columns() const { return columns.tap_step == 1 && columns.out_step <= 2; }
  int64_t term_taps() const { return rows.taps * columns.taps * kLanes; }
  // These return the number of vectors, and the first channel of each. If the channels are not
  // whole vectors, the last vector ends with them and overlaps the one before it. Both compute the
  // same numbers for the channels that they share.
  int64_t vectors() const { return ceil_div(channels, kLanes); }
  int64_t first_lane(int64_t vector) const { return std::min(vector * kLanes, channels - kLanes); }
  // Returns what the sums of a vector of channels begin with.
  Vec start(int64_t vector) const {
    return bias == nullptr ? Vec::zero() : Vec::load_unaligned(bias + vector * kLanes);
  }

  // Returns the number of blocks that the products of an output are summed in, which keeps rounding
  // errors small. In depthwise problems a block has some whole rows of taps. In others it has some
  // terms: at most half of them, because a sequence of all can have more than twice the rounding
  // errors of torch, but at least two terms of a 3x3 kernel, because adding up blocks takes time.
  int64_t count_blocks() const {
    const int64_t taps = std::max<int64_t>(1, rows.taps * columns.taps);
    if (groups.depthwise())
      return std::clamp<int64_t>(taps / kBlockProducts, 1, std::max<int64_t>(1, rows.taps));
    const int64_t most = std::clamp<int64_t>(groups.terms * taps / 2, 18, kMostBlock);
    return ceil_div(groups.terms, std::max<int64_t>(1, most / taps));
  }
};

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
