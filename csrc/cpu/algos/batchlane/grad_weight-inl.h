// The grad_weight pass of direct_batchlane: computes gw from gy and x. Every lane sums the products
// of its own images. The lanes of a chunk of the batch are added after that, and the chunks last
// (blocking/reduction-inl.h).
#pragma once

#include "cpu/algos/batchlane/blocking-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace batchlane {

Blocking grad_weight_blocking(const Problem& p) {
  const Axis rows = forward_rows(p);
  const int64_t channels = Slices(p).channels;
  ColumnSpan span(p.W);
  span.cover(forward_columns(p));
  auto make = [&](int64_t n) {
    return Buffers(p.Cg, input_rows(rows, n), span.width(), channels, n, p.OW());
  };
  const int64_t n = band_rows(p, rows.out, 1, make);
  return {p, rows.out, n, make(n), span};
}

// Adds the products of one unit, which is a band of gy rows of a block of images, to the
// accumulators of some output channels, all of one group. `memory` is the thread's lane buffers.
void accumulate_band(const Problem& p, const Operands& ops, const Blocking& blocking, int64_t unit,
                     Range channels, Real* memory, Real* accumulators) {
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const Buffers& buffers = blocking.buffers;
  const View<Real> x = buffers.x(memory), gy = buffers.y(memory + buffers.x_floats);
  const int64_t Cg = p.Cg, group = channels.begin / p.Og(), block = unit / blocking.bands;
  const Range band = blocking.band(p.OH(), unit % blocking.bands);
  const Range in = inputs_read(forward_rows(p), band);
  if (in.empty()) return;
  const View<Real> image{x.at - blocking.span.low * kLanes, x.plane, x.row};
  load_rows(static_cast<const Real*>(ops.x) + block * kLanes * xs.size(),
            blocking.images(p, block, xs), xs, in, {group * Cg, (group + 1) * Cg}, image);
  load_rows(static_cast<const Real*>(ops.gy) + block * kLanes * ys.size(),
            blocking.images(p, block, ys), ys, band, channels, gy);
  Correlation sum;
  sum.rows = restrict_taps(swap_roles(forward_rows(p)), band, in);
  sum.init = Init::accumulate;
  sum.channels = channels.size();
  sum.taps = {gy.at, gy.plane, gy.row};
  sum.taps_channel = gy.plane;
  for (int64_t c = 0; c < Cg; ++c) {
    const View<Real> plane{image.at + c * image.plane, image.plane, image.row};
    read_columns(sum, plane, swap_roles(forward_columns(p)));
    sum.out = {accumulators + c * p.R * p.S * kLanes, Cg * p.R * p.S * kLanes, p.S * kLanes};
    correlate<Taps::vector>(sum);
  }
}

Reduction grad_weight_reduction(const Problem& p, const Blocking& blocking) {
  const Buffers& buffers = blocking.buffers;
  return {p, blocking.blocks * blocking.bands, buffers.x_floats + buffers.y_floats,
          Slices(p).accumulator_floats()};
}

struct GradWeight final : Plan {
  const Problem p;
  const Blocking blocking;
  const Reduction reduction;

  explicit GradWeight(const Problem& problem)
      : p(problem),
        blocking(grad_weight_blocking(p)),
        reduction(grad_weight_reduction(p, blocking)) {}
  int64_t workspace(int threads) const override { return reduction.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    reduce_weights(p, reduction, workspace, static_cast<Real*>(ops.out), executor,
                   [&](int64_t unit, Range channels, Real* memory, Real* accumulators) {
                     accumulate_band(p, ops, blocking, unit, channels, memory, accumulators);
                   });
  }
};

}  // namespace batchlane
}  // namespace
}  // namespace convkern::cpu
