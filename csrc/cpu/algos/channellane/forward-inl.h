// direct_channellane forward: y from x, w and b, with bias and ReLU applied in registers.
#pragma once

namespace convkern::cpu {
namespace {
namespace channellane {

void forward(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const Axis rows = forward_rows(p), columns = forward_columns(p);
  const Tasks tasks(p, rows.out, bytes_of_row(p));
  const int64_t C = p.C, taps = p.R * p.S, count = tasks.count(p);
  auto* packed = static_cast<float*>(workspace);
  pack_channels(static_cast<const float*>(ops.w), C, taps, packed);
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const Range vectors = tasks.vectors_of(task);
      const int64_t n = tasks.image(task), c = vectors.begin * kLanes;
      const Range u = tasks.rows_of(task);
      Correlation sum;
      sum.rows = restrict_outputs(rows, u, {0, p.H});
      sum.columns = columns;
      sum.in = pixels(ops.x, n * p.H, p.W, p);
      sum.in.at += columns.offset * C + c;
      sum.in_output = columns.out_step * C;
      sum.in_tap = columns.tap_step * C;
      sum.taps = {packed + c * taps, 0, p.S * kLanes};
      sum.vectors = vectors.size();
      sum.taps_vector = taps * kLanes;
      sum.out = {static_cast<float*>(ops.out) + (n * rows.out + u.begin) * columns.out * C + c, 0,
                 columns.out * C};
      sum.out_column = C;
      sum.init = ops.b == nullptr ? Init::zero : Init::bias;
      if (ops.b != nullptr) sum.bias = static_cast<const float*>(ops.b) + c;
      sum.relu = p.activation == Activation::relu;
      correlate_in_place(sum);
    }
  });
}

int64_t forward_workspace(const Problem& p, int) { return packed_bytes(p); }

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
