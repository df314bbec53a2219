// The forward pass of direct_batchlane: computes y from x, w and b. A task copies the rows of x
// that a band reads to a lane buffer, computes the band of y in another and stores it. Bias and
// bounds are applied in registers.
#pragma once

#include "cpu/algos/batchlane/blocking-inl.h"

namespace convkern::cpu {
namespace {
namespace batchlane {

Blocking forward_blocking(const Problem& p) {
  const Axis rows = forward_rows(p);
  ColumnSpan span(p.W);
  span.cover(forward_columns(p));
  auto make = [&](int64_t n) {
    return Buffers(p.Cg, input_rows(rows, n), span.width(), p.Og(), n, p.OW());
  };
  const int64_t n = band_rows(p, rows.out, Vec::kTiles.rows, make);
  return {p, rows.out, n, make(n), span};
}

struct Forward final : Plan {
  const Problem p;
  const Blocking blocking;

  explicit Forward(const Problem& problem) : p(problem), blocking(forward_blocking(p)) {}
  int64_t workspace(int threads) const override { return blocking.buffers.bytes() * threads; }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void Forward::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Buffers& buffers = blocking.buffers;
  const Axis rows = forward_rows(p), columns = forward_columns(p);
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const auto* w = static_cast<const Real*>(ops.w);
  const auto* b = static_cast<const Real*>(ops.b);
  const Epilogue epilogue(p, ops);
  const int64_t Og = p.Og(), Cg = p.Cg;
  const GroupTasks tasks(p, blocking.blocks, blocking.bands);
  const int64_t count = tasks.count();
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* memory = thread_buffers(workspace, buffers, thread);
    // Tasks overwrite the columns of the images only, so the zeros around them are written once.
    set_zero(memory, buffers.x_floats);
    const View<Real> x = buffers.x(memory), y = buffers.y(memory + buffers.x_floats);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = tasks.group(task), block = tasks.image(task);
      const Range u = blocking.band(rows.out, tasks.band(task));
      const Range in = inputs_read(rows, u);
      const View<Real> image{x.at - blocking.span.low * kLanes, x.plane, x.row};
      load_rows(static_cast<const Real*>(ops.x) + block * kLanes * xs.size(),
                blocking.images(p, block, xs), xs, in, {group * Cg, (group + 1) * Cg}, image);
      Correlation c;
      c.rows = restrict_outputs(rows, u, in);
      read_columns(c, image, columns);
      c.channels = Og;
      c.planes = Cg;
      c.init = b == nullptr ? Init::zero : Init::bias;
      c.bounds = epilogue.if_bounds();
      c.taps = {w + group * Og * Cg * p.R * p.S, p.R * p.S, p.S};
      c.taps_channel = Cg * p.R * p.S;
      c.out = y;
      if (b != nullptr) c.bias = b + group * Og;
      correlate<Taps::broadcast>(c);
      store_rows(static_cast<Real*>(ops.out) + block * kLanes * ys.size(),
                 blocking.images(p, block, ys), ys, u, {group * Og, (group + 1) * Og}, y);
      const Range images{block * kLanes, std::min(p.N, (block + 1) * kLanes)};
      finish_region(epilogue, static_cast<Real*>(ops.out), ys,
                    {images, u, {0, ys.width}, {group * Og, (group + 1) * Og}});
    }
  });
}

}  // namespace batchlane
}  // namespace
}  // namespace convkern::cpu
