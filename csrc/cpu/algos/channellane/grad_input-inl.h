// direct_channellane grad_input: gx from gy and w, gathered: each residue of the gx index modulo
// the stride is a correlation of its own, with every stride-th tap.
#pragma once

namespace convkern::cpu {
namespace {
namespace channellane {

void grad_input(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const std::vector<Residue> list = residues(p);
  const Tasks tasks(p, ceil_div(p.H, p.stride_h), bytes_of_row(p));  // of a residue, at most
  const int64_t C = p.C, count = tasks.count(p);
  // The taps of every residue, (channel, row, column), then the same with the channels innermost.
  auto* taps = static_cast<float*>(workspace);
  float* packed = taps + packed_bytes(p) / sizeof(float);
  pack_taps(p, list, static_cast<const float*>(ops.w), taps);
  for (const Residue& residue : list) {
    if (residue.tap_count() == 0) continue;
    pack_channels(taps + residue.taps, C, residue.tap_count(), packed + residue.taps);
  }
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const Range vectors = tasks.vectors_of(task);
      const int64_t n = tasks.image(task), c = vectors.begin * kLanes;
      const Range band = tasks.rows_of(task);
      for (const Residue& residue : list) {
        const Axis &rows = residue.rows.axis, &columns = residue.columns.axis;
        const Range u{band.begin, std::min(rows.out, band.end)};
        if (u.empty()) continue;
        Correlation sum;
        sum.rows = restrict_outputs(rows, u, {0, p.OH()});
        sum.columns = columns;
        sum.in = pixels(ops.gy, n * p.OH(), p.OW(), p);
        sum.in.at += columns.offset * C + c;
        sum.in_output = columns.out_step * C;
        sum.in_tap = columns.tap_step * C;
        sum.taps = {packed + residue.taps + c * residue.tap_count(), 0, columns.taps * kLanes};
        sum.vectors = vectors.size();
        sum.taps_vector = residue.tap_count() * kLanes;
        const int64_t first_row = n * p.H + residue.row + u.begin * p.stride_h;
        sum.out = {static_cast<float*>(ops.out) + (first_row * p.W + residue.column) * C + c, 0,
                   p.stride_h * p.W * C};
        sum.out_column = p.stride_w * C;
        correlate_in_place(sum);
      }
    }
  });
}

int64_t grad_input_workspace(const Problem& p, int) { return 2 * packed_bytes(p); }

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
