// The grad_input pass of direct_channellane: computes gx from gy and w. The indices of gx are split
// by their residue modulo the stride. Each residue is one correlation of gy with the taps that
// reach it, so every element of gx is gathered and written once.
#pragma once

#include "cpu/algos/channellane/shared-inl.h"
#include "cpu/blocking/residues-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

PixelBuffers grad_input_buffers(const Problem& p, const std::vector<Residue>& list,
                                const Tasks& tasks) {
  const Groups groups(p);
  ColumnSpan columns(p.OW());
  for (const Residue& residue : list) {
    if (!groups.in_place && residue.tap_count() > 0) columns.cover(residue.columns.axis);
  }
  const int64_t out_rows = std::min(p.H, tasks.band_rows * p.stride_h);
  return {p, grad_input_reads(p, tasks.band_rows), columns, out_rows, p.W};
}

template <class Number>
struct GradInput final : Plan {
  const Problem p;
  const std::vector<Residue> list;
  const Tasks tasks;
  const PixelBuffers buffers;

  explicit GradInput(const Problem& problem)
      : p(problem),
        list(residues(p)),
        tasks(p, ceil_div(p.H, p.stride_h)),  // the most gx rows that a residue has
        buffers(grad_input_buffers(p, list, tasks)) {}
  int64_t workspace(int threads) const override {
    const int64_t floats = packed_floats(p) + threads * buffers.floats();
    return tap_bytes(p) + floats * static_cast<int64_t>(sizeof(Real));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

template <class Number>
void GradInput<Number>::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Groups groups(p);
  const bool fetches = fetches_pixels(p);
  const TermLanes lanes(groups);
  const ImageShape gxs = x_shape(p), gys = y_shape(p);
  const int64_t count = tasks.count(p);
  // The workspace holds the taps of every residue as (channel, term, row, column), then the same
  // taps with the channels innermost, and then the threads' buffers.
  auto* taps = static_cast<Real*>(workspace);
  Real* packed = taps + tap_bytes(p) / sizeof(Real);
  Real* memory = packed + packed_floats(p);
  pack_taps(p, list, static_cast<const Real*>(ops.w), taps);
  for (const Residue& residue : list) {
    if (residue.tap_count() == 0) continue;
    pack_channels(groups, taps + residue.taps, groups.terms * residue.tap_count(),
                  packed + residue.taps / p.C * whole_vectors(p.C));
  }
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* buffer = memory + thread * buffers.floats();
    for (int64_t task = begin; task < end; ++task) {
      const Range vectors = tasks.vectors_of(task), band = tasks.rows_of(task);
      const Range channels = groups.channels_of(vectors);
      const Range h{band.begin * p.stride_h, std::min(p.H, band.end * p.stride_h)};
      const int64_t n = tasks.image(task);
      const Range in = grad_input_rows(p, h);
      const Pixels<Number> gx =
          pixels_to_write<Number>(ops.out, gxs, n, h, channels, buffer + buffers.in_floats);
      Pixels<const Number> gy{};
      if (!in.empty())
        gy = read_pixels<Number>(ops.gy, gys, n, in, groups.read_by(vectors), groups.in_place,
                                 buffers.columns, buffer);
      for (const Residue& residue : list) {
        const Axis &rows = residue.rows.axis, &columns = residue.columns.axis;
        const Range u{band.begin, std::min(rows.out, band.end)};
        if (u.empty()) continue;
        const Range reached = in.empty() ? Range{0, 0} : in;
        GroupCorrelation<Number> sum(groups, lanes, restrict_outputs(rows, u, reached),
                                     buffers.from_first(columns), columns);
        sum.in = gy;
        sum.fetches = fetches;
        if (groups.in_place) sum.channels = channels.size();
        sum.taps = packed + residue.taps / p.C * whole_vectors(p.C) +
                   channels.begin * groups.terms * residue.tap_count();
        sum.out = {gx.at + residue.row * gx.row + residue.column * gx.pixel, p.stride_w * gx.pixel,
                   p.stride_h * gx.row, 0};
        correlate_groups(sum);
      }
      write_pixels(ops.out, gxs, n, h, channels, gx);
    }
  });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
