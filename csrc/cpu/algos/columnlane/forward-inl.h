// The forward pass of direct_columnlane: computes y from x, w and b. Bias and bounds are applied
// in registers.
#pragma once

#include "cpu/algos/columnlane/row_buffers-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

// The bands of rows that tasks compute, and their buffers.
struct ForwardBands {
  TaskSize size;
  int64_t bands;
  int64_t channels;  // channels of y that a task computes at a time
  RowBuffers buffers;
  int64_t packed;  // bytes of the packed taps, or 0 if w is read in place

  explicit ForwardBands(const Problem& p) {
    const Axis rows = forward_rows(p);
    // If the input planes are read in several slices, the sums of all channels stay in the buffer
    // until the last slice has been added.
    auto channels_for = [&](int64_t planes) {
      return planes < p.Cg ? p.Og() : std::min(p.Og(), kSliceChannels);
    };
    auto make = [&](int64_t planes, int64_t n) {
      return RowBuffers{{x_layout(p), planes, input_rows(rows, n)},
                        {{1, 0, whole_vectors(p.OW())}, channels_for(planes), n}};
    };
    auto read = [&](int64_t n) { return input_rows(rows, n); };
    size = task_size(p, p.Cg, rows.out, p.stride_h, make, read);
    bands = ceil_div(rows.out, size.rows);
    channels = channels_for(size.planes);
    buffers = make(size.planes, size.rows);
    const bool in_order = p.S == 1 || p.stride_w == std::gcd(p.stride_w, p.dilation_w);
    packed = in_order ? 0 : tap_bytes(p);
  }
};

// Packs the taps of each phase as (O, Cg, R, count).
void pack_phases(const Problem& p, const std::vector<Phase>& list, const Real* w, Real* packed) {
  for (const Phase& phase : list) {
    for (int64_t row = 0; row < p.O * p.Cg * p.R; ++row) {
      for (int64_t i = 0; i < phase.count; ++i) {
        *packed++ = w[row * p.S + phase.first + i * phase.tap_stride];
      }
    }
  }
}

struct Forward final : Plan {
  const Problem p;
  const ForwardBands tasks;
  const std::vector<Phase> list;

  explicit Forward(const Problem& problem)
      : p(problem), tasks(p), list(phases_of_plan(p, tasks.buffers)) {}
  int64_t workspace(int threads) const override {
    return tasks.packed + tasks.buffers.bytes() * threads;
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void Forward::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const RowBuffers& buffers = tasks.buffers;
  const Axis rows = forward_rows(p);
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const auto* w = static_cast<const Real*>(ops.w);
  const auto* b = static_cast<const Real*>(ops.b);
  auto* memory = static_cast<Real*>(workspace);
  if (tasks.packed > 0) {
    pack_phases(p, list, w, memory);
    w = memory;
    memory += tasks.packed / sizeof(Real);
  }
  const int64_t Og = p.Og();
  const Epilogue epilogue(p, ops);
  const GroupTasks order(p, p.N, tasks.bands);
  const int64_t count = order.count();
  const PlaneSlices outputs(Og, tasks.channels), inputs(p.Cg, tasks.size.planes);
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* own = memory + thread * buffers.floats();
    set_zero(own, buffers.x.floats());
    const View<Real> x = buffers.x.view(own), y = buffers.y.view(own + buffers.x.floats());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = order.group(task), n = order.image(task);
      const int64_t first_row = order.band(task) * tasks.size.rows;
      const Range u{first_row, std::min(rows.out, first_row + tasks.size.rows)};
      const Range in = inputs_read(rows, u);
      for (int64_t step = 0; step < inputs.count * outputs.count; ++step) {
        const int64_t input = step / outputs.count;
        const Range planes = inputs.at(input);
        const Range channels = shifted(outputs.at(step % outputs.count), group * Og);
        if (step % outputs.count == 0) {
          load_columns(static_cast<const Real*>(ops.x) + n * xs.size(), xs, in,
                       shifted(planes, group * p.Cg), x, buffers.x.layout);
        }
        Real* result = static_cast<Real*>(ops.out) + n * ys.size();
        const View<Real> in_memory =
            rows_in_memory(result, ys, u.begin, channels.begin, buffers.y.layout);
        for (const Phase& phase : list) {
          const bool first = input == 0 && &phase == &list.front();
          const bool last = input == inputs.count - 1 && &phase == &list.back();
          const int64_t plane_taps = p.R * phase.count;
          Correlation c;
          c.rows = restrict_outputs(rows, u, in);
          c.columns = unclipped(buffers.y.layout.width / kLanes, phase.count);
          c.channels = channels.size();
          c.planes = planes.size();
          c.in = {x.at + phase.at, x.plane, x.row};
          c.in_output = kLanes;
          c.in_tap = phase.step;
          c.taps_channel = p.Cg * plane_taps;
          c.taps = {w + phase.packed + channels.begin * c.taps_channel + planes.begin * plane_taps,
                    plane_taps, phase.count};
          c.out = in_memory.at != nullptr ? in_memory : y;
          c.init = !first ? Init::accumulate : b == nullptr ? Init::zero : Init::bias;
          if (b != nullptr) c.bias = b + channels.begin;
          c.bounds = last ? epilogue.if_bounds() : nullptr;
          correlate<Taps::broadcast>(c);
        }
        if (input < inputs.count - 1) continue;
        if (in_memory.at == nullptr) store_columns(result, ys, u, channels, y, buffers.y.layout);
        finish_region(epilogue, static_cast<Real*>(ops.out), ys,
                      {{n, n + 1}, u, {0, ys.width}, channels});
      }
    }
  });
}

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
