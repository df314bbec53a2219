// The grad_input pass of direct_columnlane: computes gx from gy and w. The indices of gx are split
// by their residue modulo the stride. Each residue is one correlation of gy with the taps that
// reach it, so every element of gx is gathered.
#pragma once

#include "cpu/algos/columnlane/row_buffers-inl.h"
#include "cpu/blocking/residues-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

// The bands of rows that tasks compute, and their buffers. A band has the same number of gx rows of
// every residue.
struct GradInputBands {
  TaskSize size;  // its rows are those of one residue
  int64_t bands;
  int64_t channels;  // channels of gx that a task computes at a time
  RowBuffers buffers;

  GradInputBands(const Problem& p, const std::vector<Residue>& list) {
    const int64_t rows = ceil_div(p.H, p.stride_h);
    const int64_t outputs = whole_vectors(ceil_div(p.W, p.stride_w));
    ColumnSpan span(p.OW());
    for (const Residue& residue : list) {
      Axis columns = residue.columns.axis;
      columns.out = outputs;  // lanes beyond the last column read the buffer too
      span.cover(columns);
    }
    const RowLayout gy{1, -span.low, whole_vectors(span.width())};
    const RowLayout gx{p.stride_w, 0, outputs};
    // If the planes of gy are read in several slices, the sums of all channels stay in the buffer
    // until the last slice has been added.
    auto channels_for = [&](int64_t planes) {
      return planes < p.Og() ? p.Cg : std::min(p.Cg, kSliceChannels);
    };
    auto read = [&](int64_t n) { return grad_input_reads(p, n); };
    auto make = [&](int64_t planes, int64_t n) {
      return RowBuffers{{gx, channels_for(planes), n * p.stride_h}, {gy, planes, read(n)}};
    };
    size = task_size(p, p.Og(), rows, 1, make, read);
    bands = ceil_div(rows, size.rows);
    channels = channels_for(size.planes);
    buffers = make(size.planes, size.rows);
  }
};

struct GradInput final : Plan {
  const Problem p;
  const std::vector<Residue> list;
  const GradInputBands tasks;

  explicit GradInput(const Problem& problem) : p(problem), list(residues(p)), tasks(p, list) {}
  int64_t workspace(int threads) const override {
    return tap_bytes(p) + tasks.buffers.bytes() * threads;
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void GradInput::run(const Operands& ops, void* workspace, const Executor& executor) const {
  const RowBuffers& buffers = tasks.buffers;
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const int64_t Og = p.Og(), Cg = p.Cg;
  const GroupTasks order(p, p.N, tasks.bands);
  const int64_t count = order.count();
  const PlaneSlices outputs(Cg, tasks.channels), inputs(Og, tasks.size.planes);
  auto* packed = static_cast<Real*>(workspace);
  pack_taps(p, list, static_cast<const Real*>(ops.w), packed);
  Real* memory = packed + tap_bytes(p) / sizeof(Real);

  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int thread) {
    Real* own = memory + thread * buffers.floats();
    set_zero(own, buffers.floats());
    const View<Real> gx = buffers.x.view(own), gy = buffers.y.view(own + buffers.x.floats());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = order.group(task), n = order.image(task);
      const int64_t first_row = order.band(task) * tasks.size.rows;
      const Range h{first_row * p.stride_h,
                    std::min(p.H, (first_row + tasks.size.rows) * p.stride_h)};
      const Range in = grad_input_rows(p, h);
      for (int64_t step = 0; step < inputs.count * outputs.count; ++step) {
        const int64_t input = step / outputs.count;
        const Range planes = inputs.at(input);
        const Range channels = shifted(outputs.at(step % outputs.count), group * Cg);
        if (step % outputs.count == 0 && !in.empty()) {
          load_columns(static_cast<const Real*>(ops.gy) + n * ys.size(), ys, in,
                       shifted(planes, group * Og), gy, buffers.y.layout);
        }
        Real* result = static_cast<Real*>(ops.out) + n * xs.size();
        const View<Real> in_memory =
            rows_in_memory(result, xs, h.begin, channels.begin, buffers.x.layout);
        const View<Real>& out = in_memory.at != nullptr ? in_memory : gx;
        for (const Residue& residue : list) {
          const ResidueAxis &rows = residue.rows, &columns = residue.columns;
          const Range outs{first_row, std::min(rows.axis.out, first_row + tasks.size.rows)};
          if (outs.empty()) continue;
          Correlation c;
          c.rows = restrict_outputs(rows.axis, outs, in);
          c.columns = unclipped(ceil_div(columns.axis.out, kLanes), columns.axis.taps);
          c.channels = channels.size();
          c.planes = planes.size();
          c.in = {gy.at + buffers.y.layout.pad + columns.axis.offset, gy.plane, gy.row};
          c.in_output = kLanes;
          c.in_tap = columns.axis.tap_step;
          c.taps_channel = Og * residue.tap_count();
          c.taps = {packed + residue.taps + channels.begin * c.taps_channel +
                        planes.begin * residue.tap_count(),
                    residue.tap_count(), columns.axis.taps};
          c.init = input == 0 ? Init::zero : Init::accumulate;
          c.out = {out.at + residue.row * out.row + residue.column * buffers.x.layout.width,
                   out.plane, out.row * p.stride_h};
          correlate<Taps::broadcast>(c);
        }
        if (input == inputs.count - 1 && in_memory.at == nullptr) {
          store_columns(result, xs, h, channels, gx, buffers.x.layout);
        }
      }
    }
  });
}

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
