// The grad_input pass of direct_batchlane: computes gx from gy and w. The indices of gx are split
// by their residue modulo the stride. Each residue is one correlation of gy with the taps that
// reach it, so every element of gx is gathered and written once.
#pragma once

#include "cpu/algos/batchlane/blocking-inl.h"
#include "cpu/blocking/residues-inl.h"

namespace convkern::cpu {
namespace {
namespace batchlane {

// Bands count the rows of one residue. A band of n such rows has n * stride_h rows of gx, so that
// it holds the same share of every residue.
Blocking grad_input_blocking(const Problem& p, const std::vector<Residue>& list) {
  ColumnSpan span(p.OW());
  for (const Residue& residue : list) span.cover(residue.columns.axis);
  const int64_t out_rows = ceil_div(p.H, p.stride_h);  // the most gx rows that a residue has
  auto make = [&](int64_t n) {
    return Buffers(p.Cg, n * p.stride_h, p.W, p.Og(), grad_input_reads(p, n), span.width());
  };
  const int64_t n = band_rows(p, out_rows, Vec::kTiles.rows, make);
  return {p, out_rows, n, make(n), span};
}

struct GradInput final : Plan {
  const Problem p;
  const std::vector<Residue> list;
  const Blocking blocking;

  explicit GradInput(const Problem& problem)
      : p(problem), list(residues(p)), blocking(grad_input_blocking(p, list)) {}
  int64_t workspace(int threads) const override {
    return tap_bytes(p) + blocking.buffers.bytes() * threads;
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void GradInput::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Buffers& buffers = blocking.buffers;
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const int64_t Og = p.Og(), Cg = p.Cg;
  const GroupTasks tasks(p, blocking.blocks, blocking.bands);
  const int64_t count = tasks.count();
  auto* packed = static_cast<Real*>(workspace);
  pack_taps(p, list, static_cast<const Real*>(ops.w), packed);
  void* threads = static_cast<char*>(workspace) + tap_bytes(p);

  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* memory = thread_buffers(threads, buffers, thread);
    const View<Real> gx = buffers.x(memory), gy = buffers.y(memory + buffers.x_floats);
    set_zero(gy.at, buffers.y_floats);
    const View<Real> image{gy.at - blocking.span.low * kLanes, gy.plane, gy.row};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = tasks.group(task), block = tasks.image(task);
      const int64_t first_row = tasks.band(task) * blocking.band_rows;
      const Range h{first_row * p.stride_h,
                    std::min(p.H, (first_row + blocking.band_rows) * p.stride_h)};
      const Range in = grad_input_rows(p, h);
      if (!in.empty()) {
        load_rows(static_cast<const Real*>(ops.gy) + block * kLanes * ys.size(),
                  blocking.images(p, block, ys), ys, in, {group * Og, (group + 1) * Og}, image);
      }
      for (const Residue& residue : list) {
        const int64_t u = h.begin / p.stride_h;
        const Range outs{u, std::min(residue.rows.axis.out, u + blocking.band_rows)};
        if (outs.empty()) continue;
        const ResidueAxis &rows = residue.rows, &columns = residue.columns;
        Correlation c;
        c.rows = restrict_outputs(rows.axis, outs, in);
        read_columns(c, image, columns.axis);
        c.channels = Cg;
        c.planes = Og;
        c.out_column = p.stride_w * kLanes;
        c.taps = {packed + residue.taps + group * Cg * Og * residue.tap_count(),
                  residue.tap_count(), columns.axis.taps};
        c.taps_channel = Og * residue.tap_count();
        c.out = {gx.at + residue.row * gx.row + residue.column * kLanes, gx.plane,
                 gx.row * p.stride_h};
        correlate<Taps::broadcast>(c);
      }
      store_rows(static_cast<Real*>(ops.out) + block * kLanes * xs.size(),
                 blocking.images(p, block, xs), xs, h, {group * Cg, (group + 1) * Cg}, gx);
    }
  });
}

}  // namespace batchlane
}  // namespace
}  // namespace convkern::cpu
