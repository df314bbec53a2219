// The forward pass of direct_channellane: computes y from x, w and b. Bias and bounds are applied
// in registers.
#pragma once

#include "cpu/algos/channellane/shared-inl.h"

namespace convkern::cpu {
namespace {
namespace channellane {

PixelBuffers forward_buffers(const Problem& p, const Tasks& tasks) {
  const ColumnSpan columns = columns_read(Groups(p), forward_columns(p));
  return {p, input_rows(forward_rows(p), tasks.band_rows), columns, tasks.band_rows, p.OW()};
}

template <class Number>
struct Forward final : Plan {
  const Problem p;
  const Tasks tasks;
  const PixelBuffers buffers;

  explicit Forward(const Problem& problem)
      : p(problem), tasks(p, p.OH()), buffers(forward_buffers(p, tasks)) {}
  int64_t workspace(int threads) const override {
    const int64_t floats = packed_floats(p) + whole_vectors(p.O) + threads * buffers.floats();
    return floats * static_cast<int64_t>(sizeof(Real));
  }
  int64_t packed_bytes() const override { return whole_lines(packed_floats(p)); }
  void pack(const void* w, void* packed, const Executor&) const override {
    pack_channels(Groups(p), static_cast<const Real*>(w), p.Cg * p.R * p.S,
                  static_cast<Real*>(packed));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

template <class Number>
void Forward<Number>::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const Axis rows = forward_rows(p), columns = forward_columns(p);
  const Groups groups(p);
  const bool fetches = fetches_pixels(p);
  const Epilogue epilogue(p, ops);
  const TermLanes lanes(groups);
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const int64_t taps = p.Cg * p.R * p.S, count = tasks.count(p);
  const auto* packed = static_cast<const Real*>(ops.packed);
  if (packed == nullptr) {
    pack(ops.w, workspace, executor);
    packed = static_cast<const Real*>(workspace);
  }
  Real* bias = static_cast<Real*>(workspace) + packed_floats(p);
  Real* memory = bias + whole_vectors(p.O);
  if (ops.b != nullptr) pack_channels(groups, static_cast<const Real*>(ops.b), 1, bias);
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* buffer = memory + thread * buffers.floats();
    for (int64_t task = begin; task < end; ++task) {
      const Range vectors = tasks.vectors_of(task), u = tasks.rows_of(task);
      const Range channels = groups.channels_of(vectors);
      const int64_t n = tasks.image(task);
      const Range in = inputs_read(rows, u);
      GroupCorrelation<Number> sum(groups, lanes, restrict_outputs(rows, u, in),
                                   buffers.from_first(columns), columns);
      if (!in.empty())
        sum.in = read_pixels<Number>(ops.x, xs, n, in, groups.read_by(vectors), groups.in_place,
                                     buffers.columns, buffer);
      sum.fetches = fetches;
      if (groups.in_place) sum.channels = channels.size();
      sum.taps = packed + channels.begin * taps;
      sum.out = pixels_to_write<Number>(ops.out, ys, n, u, channels, buffer + buffers.in_floats);
      if (ops.b != nullptr) sum.bias = bias + channels.begin;
      sum.bounds = epilogue.if_bounds();
      correlate_groups(sum);
      write_pixels(ops.out, ys, n, u, channels, sum.out);
      if constexpr (std::is_same_v<Number, Real>) {
        finish_region(epilogue, static_cast<Real*>(ops.out), ys, rows_of_image(ys, n, u, channels));
      }
    }
  });
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
