// The grad_weight pass of direct_channellane: computes gw from gy and x. Every lane sums the
// weights of one output channel, so lanes are never added.
#pragma once

#include "cpu/algos/channellane/shared-inl.h"
#include "cpu/algos/channellane/weight_strips-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// Returns whether strips sum the weights: those of depthwise problems in place with few taps.
bool sums_in_strips(const Problem& p) {
  return Groups(p).in_place && p.R <= kStripTaps && p.S <= kStripTaps;
}

// The bands of gy rows, and a thread's buffers for the pixels of x and gy that a band reads. Only
// strips sum more than one vector of channels in a task.
struct BufferedTasks : Tasks {
  PixelBuffers buffers;

  explicit BufferedTasks(const Problem& p)
      : Tasks(p, p.OH()),
        buffers(p, input_rows(forward_rows(p), band_rows),
                columns_read(Groups(p), forward_columns(p)), band_rows, p.OW()) {
    if (!sums_in_strips(p)) slices = most_slices;
  }
  // Returns the floats of the sums of a vector of channels, and those of the largest slice.
  int64_t vector_sums(const Problem& p) const { return p.Cg * p.R * p.S * kLanes; }
  int64_t slice_sums(const Problem& p) const {
    return (ceil_div(most_slices, slices) + 1) * vector_sums(p);
  }
  Reduction reduction(const Problem& p) const {
    return {p, p.N * bands, /*buffer_floats=*/0, slice_sums(p) + buffers.floats()};
  }
};

// Adds the products of one band of gy rows of an image to the sums of some vectors of channels.
template <class Number>
void accumulate_strips(const Problem& p, const Operands& ops, const BufferedTasks& tasks,
                       const Groups& groups, const TermLanes& lanes, int64_t unit, Range vectors,
                       Real* sums) {
  const Axis rows = forward_rows(p), columns = forward_columns(p);
  const int64_t n = unit / tasks.bands;
  const Range band = tasks.band(unit % tasks.bands), channels = groups.channels_of(vectors);
  const Range in = inputs_read(rows, band);
  if (in.empty()) return;
  GroupCorrelation<Number> sum(groups, lanes, restrict_outputs(rows, band, in), columns, columns);
  sum.in = pixels_of(static_cast<const Number*>(ops.x), x_shape(p),
                     rows_of_image(x_shape(p), n, in, channels));
  sum.gy = pixels_of(static_cast<const Number*>(ops.gy), y_shape(p),
                     rows_of_image(y_shape(p), n, band, channels));
  sum.channels = channels.size();
  sum.fetches = fetches_pixels(p);
  sum.sums = sums;
  add_weight_strips(sum);
}

// Adds the products of one band of gy rows of an image to the sums of a vector of channels. The
// sums are vectors (term, row, column).
void accumulate_pixels(const Problem& p, const Operands& ops, const BufferedTasks& tasks,
                       const Groups& groups, const TermLanes& lanes, int64_t unit, int64_t vector,
                       Real* sums, Real* buffer) {
  const Axis rows = forward_rows(p), columns = tasks.buffers.from_first(forward_columns(p));
  const int64_t n = unit / tasks.bands;
  const Range band = tasks.band(unit % tasks.bands), vectors{vector, vector + 1};
  const Range in = inputs_read(rows, band);
  if (in.empty()) return;
  const Pixels<const Real> x = read_pixels<Real>(ops.x, x_shape(p), n, in, groups.read_by(vectors),
                                                 groups.in_place, tasks.buffers.columns, buffer);
  const Pixels<const Real> gy =
      read_pixels<Real>(ops.gy, y_shape(p), n, band, groups.channels_of(vectors), groups.in_place,
                        ColumnSpan(p.OW()), buffer + tasks.buffers.in_floats);
  if (!groups.depthwise()) {
    GroupCorrelation<Real> sum(groups, lanes, restrict_outputs(rows, band, in), columns,
                               forward_columns(p));
    sum.in = x;
    sum.sums = sums;
    sum.gy = gy;
    return add_group_weights(sum);
  }
  Correlation sum;
  sum.columns = swap_roles(columns);
  sum.in = {x.at + sum.columns.offset * x.pixel, 0, x.row};
  sum.in_output = sum.columns.out_step * x.pixel;
  sum.in_tap = sum.columns.tap_step * x.pixel;
  sum.taps_column = gy.pixel;
  sum.out = {sums, 0, p.S * kLanes};
  sum.init = Init::accumulate;
  // Long sums are cut by rows into sums of about kBlockProducts products, which keeps their
  // rounding errors small.
  const int64_t parts = ceil_div(band.size(), ceil_div(kBlockProducts, p.OW()));
  for (int64_t part = 0; part < parts; ++part) {
    const Range u = near_equal_part(band.size(), parts, part);
    sum.rows = restrict_taps(swap_roles(rows), shifted(u, band.begin), in);
    sum.taps = {gy.at + u.begin * gy.row, 0, gy.row};
    correlate<Taps::in_place>(sum);
  }
}

template <class Number>
struct GradWeight final : Plan, WeightParts<BufferedTasks> {
  using WeightParts<BufferedTasks>::WeightParts;
  int64_t workspace(int threads) const override { return reduction.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

template <class Number>
void GradWeight<Number>::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Groups groups(p);
  const TermLanes lanes(groups);
  const int64_t weights = p.Cg * p.R * p.S, vector_sums = tasks.vector_sums(p);
  const bool strips = sums_in_strips(p);
  const auto add_unit = [&](int64_t unit, Range vectors, Real* sums) {
    if (strips) return accumulate_strips<Number>(p, ops, tasks, groups, lanes, unit, vectors, sums);
    if constexpr (std::is_same_v<Number, Real>) {
      for (int64_t i = 0; i < vectors.size(); ++i) {
        accumulate_pixels(p, ops, tasks, groups, lanes, unit, vectors.begin + i,
                          sums + i * vector_sums, sums + tasks.slice_sums(p));
      }
    }
  };
  // The memory holds the sums of the slice's vectors of channels, and then the buffers.
  reduce_chunks(p, reduction, tasks.slices, workspace, static_cast<Real*>(ops.out), executor,
                [&](int64_t slice, Range units, Real* sums, Real* partial) {
                  const Range vectors = tasks.slice(slice);
                  set_zero(sums, vectors.size() * vector_sums);
                  for (int64_t unit = units.begin; unit < units.end; ++unit) {
                    add_unit(unit, vectors, sums);
                  }
                  for (int64_t i = 0; i < vectors.size(); ++i) {
                    const Range channels = groups.channels_of(shifted({0, 1}, vectors.begin + i));
                    const ImageBlock block{weights, static_cast<int>(channels.size())};
                    lanes_to_images(partial + channels.begin * weights, block, weights,
                                    VectorCursor(sums + i * vector_sums, kLanes, weights, 0));
                  }
                });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
