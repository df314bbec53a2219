// The grad_weight pass of direct_columnlane: computes gw from gy and x. Every lane sums the
// products of its own columns of gy. The lanes of a chunk of the batch are added after that, and
// the chunks last (blocking/reduction-inl.h).
#pragma once

#include "cpu/algos/columnlane/row_buffers-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

// The bands of gy rows that are summed at a time, and their buffers.
struct GradWeightBands {
  TaskSize size;
  int64_t bands;
  RowBuffers buffers;

  explicit GradWeightBands(const Problem& p) {
    const Axis rows = forward_rows(p);
    auto read = [&](int64_t n) { return input_rows(rows, n); };
    auto make = [&](int64_t planes, int64_t n) {
      return RowBuffers{{x_layout(p), planes, read(n)},
                        {{1, 0, whole_vectors(p.OW())}, Slices(p).channels, n}};
    };
    size = task_size(p, p.Cg, rows.out, p.stride_h, make, read);
    bands = ceil_div(rows.out, size.rows);
    buffers = make(size.planes, size.rows);
  }
  Reduction reduction(const Problem& p) const {
    return {p, p.N * bands, buffers.floats(), Slices(p).accumulator_floats()};
  }
};

// Adds the products of one unit, which is a band of gy rows of an image, to the accumulators of
// some output channels, all of one group. `memory` is the thread's buffers.
void accumulate_rows(const Problem& p, const Operands& ops, const GradWeightBands& tasks,
                     const std::vector<Phase>& list, int64_t unit, Range channels, Real* memory,
                     Real* accumulators) {
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const RowBuffers& buffers = tasks.buffers;
  const View<Real> x = buffers.x.view(memory), gy = buffers.y.view(memory + buffers.x.floats());
  const int64_t Cg = p.Cg, group = channels.begin / p.Og(), n = unit / tasks.bands;
  const int64_t first_row = unit % tasks.bands * tasks.size.rows;
  const Range band{first_row, std::min(p.OH(), first_row + tasks.size.rows)};
  const Range in = inputs_read(forward_rows(p), band);
  if (in.empty()) return;
  load_columns(static_cast<const Real*>(ops.gy) + n * ys.size(), ys, band, channels, gy,
               buffers.y.layout);
  const int64_t whole = p.OW() / kLanes, weights = p.R * p.S;
  Correlation sum;
  sum.rows = restrict_taps(swap_roles(forward_rows(p)), band, in);
  sum.init = Init::accumulate;
  sum.channels = channels.size();
  sum.taps_channel = gy.plane;
  sum.in_tap = kLanes;
  for (int64_t c = 0; c < Cg; ++c) {
    const int64_t plane = c % tasks.size.planes;
    if (plane == 0) {
      const Range planes{c, std::min(Cg, c + tasks.size.planes)};
      load_columns(static_cast<const Real*>(ops.x) + n * xs.size(), xs, in,
                   shifted(planes, group * Cg), x, buffers.x.layout);
    }
    for (const Phase& phase : list) {
      sum.in = {x.at + plane * x.plane + phase.at, x.plane, x.row};
      sum.in_output = phase.step;
      sum.taps = {gy.at, gy.plane, gy.row};
      sum.columns = unclipped(phase.count, whole);
      sum.out = {accumulators + (c * weights + phase.first) * kLanes, Cg * weights * kLanes,
                 p.S * kLanes};
      sum.out_column = phase.tap_stride * kLanes;
      if (whole > 0) correlate<Taps::vector>(sum);
      sum.lanes = static_cast<int>(p.OW() % kLanes);
      if (sum.lanes == 0) continue;
      // The last vector of a row is masked in x and in gy. Beyond the last column of gy there may
      // be an infinity in x, and its product with a zero would be NaN.
      sum.in.at += whole * kLanes;
      sum.taps.at += whole * kLanes;
      sum.columns = unclipped(phase.count, 1);
      correlate<Taps::masked>(sum);
    }
  }
}

struct GradWeight final : Plan, WeightParts<GradWeightBands> {
  const std::vector<Phase> list;

  explicit GradWeight(const Problem& problem)
      : WeightParts(problem), list(phases_of_plan(p, tasks.buffers)) {}
  int64_t workspace(int threads) const override { return reduction.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    reduce_weights(p, reduction, workspace, static_cast<Real*>(ops.out), executor,
                   [&](int64_t unit, Range channels, Real* memory, Real* accumulators) {
                     accumulate_rows(p, ops, tasks, list, unit, channels, memory, accumulators);
                   });
  }
};

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
