// The grad_weight pass of direct_channellane: computes gw from gy and x. Every lane sums the
// weights of one output channel, so lanes are never added.
#pragma once

#include "cpu/algos/channellane/shared-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

// The bands of gy rows, and a thread's buffers for the pixels of x and gy that a band reads.
struct BufferedTasks : Tasks {
  PixelBuffers buffers;

  explicit BufferedTasks(const Problem& p)
      : Tasks(p, p.OH()),
        buffers(p, *this, input_rows(forward_rows(p), band_rows),
                columns_read(Groups(p), forward_columns(p)), band_rows, p.OW()) {}
  Reduction reduction(const Problem& p) const {
    return {p, p.N * bands, /*buffer_floats=*/0, p.Cg * p.R * p.S * kLanes + buffers.floats()};
  }
};

// Adds the products of one band of gy rows of an image to the sums of a vector of channels. The
// sums are vectors (term, row, column). The thread's buffers come after them in memory.
void accumulate_pixels(const Problem& p, const Operands& ops, const BufferedTasks& tasks,
                       const Groups& groups, const TermLanes& lanes, int64_t unit, int64_t vector,
                       Real* sums) {
  const Axis rows = forward_rows(p), columns = tasks.buffers.from_first(forward_columns(p));
  const int64_t n = unit / tasks.bands;
  const Range band = tasks.band(unit % tasks.bands), vectors{vector, vector + 1};
  const Range in = inputs_read(rows, band);
  if (in.empty()) return;
  Real* buffer = sums + p.Cg * p.R * p.S * kLanes;
  const Pixels<const Real> x =
      read_pixels<RealTensors>(p.dtype, ops.x, x_shape(p), n, in, groups.read_by(vectors),
                               groups.in_place, tasks.buffers.columns, buffer);
  const Pixels<const Real> gy = read_pixels<RealTensors>(
      p.dtype, ops.gy, y_shape(p), n, band, groups.channels_of(vectors), groups.in_place,
      ColumnSpan(p.OW()), buffer + tasks.buffers.in_floats);
  if (!groups.depthwise()) {
    GroupCorrelation sum(groups, lanes, restrict_outputs(rows, band, in), columns,
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

struct GradWeight final : Plan, WeightParts<BufferedTasks> {
  using WeightParts::WeightParts;
  int64_t workspace(int threads) const override { return reduction.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void GradWeight::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Groups groups(p);
  const TermLanes lanes(groups);
  const int64_t weights = p.Cg * p.R * p.S;
  const auto sum_vector = [&](int64_t vector, Range units, Real* sums, Real* partial) {
    set_zero(sums, weights * kLanes);
    for (int64_t unit = units.begin; unit < units.end; ++unit) {
      accumulate_pixels(p, ops, tasks, groups, lanes, unit, vector, sums);
    }
    const Range channels = groups.channels_of({vector, vector + 1});
    const ImageBlock block{weights, static_cast<int>(channels.size())};
    lanes_to_images(partial + channels.begin * weights, block, weights,
                    VectorCursor(sums, kLanes, weights, 0));
  };
  reduce_chunks(p, reduction, tasks.most_slices, workspace, static_cast<Real*>(ops.out), executor,
                [&](int64_t slice, Range units, Real* sums, Real* partial) {
                  const Range vectors = tasks.with_overlap({slice, slice + 1});
                  for (int64_t vector = vectors.begin; vector < vectors.end; ++vector) {
                    sum_vector(vector, units, sums, partial);
                  }
                });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
