// direct_channellane grad_weight: gw from gy and x. Every lane sums its own channel.
#pragma once

namespace convkern::cpu {
namespace {
namespace channellane {

struct GradWeightTasks : Tasks {
  explicit GradWeightTasks(const Problem& p) : Tasks(p, p.OH(), bytes_of_row(p)) {
    band_rows = std::min(band_rows, ceil_div(kBlockTerms, p.OW()));
    bands = ceil_div(rows, band_rows);
  }
  Reduction reduction(const Problem& p) const {
    return {p, p.N * bands, /*buffer_floats=*/0, p.R * p.S * kLanes};
  }
};

// Adds the products of one band of gy rows of an image to the accumulators of a vector of channels
// from c on.
void accumulate_pixels(const Problem& p, const Operands& ops, const GradWeightTasks& tasks,
                       int64_t unit, int64_t c, float* accumulators) {
  const Axis columns = swap_roles(forward_columns(p));
  const int64_t n = unit / tasks.bands, C = p.C;
  const Range band = tasks.band(unit % tasks.bands);
  Correlation sum;
  sum.rows = restrict_taps(swap_roles(forward_rows(p)), band, {0, p.H});
  sum.columns = columns;
  sum.in = pixels(ops.x, n * p.H, p.W, p);
  sum.in.at += columns.offset * C + c;
  sum.in_output = columns.out_step * C;
  sum.in_tap = columns.tap_step * C;
  sum.taps = pixels(ops.gy, n * p.OH() + band.begin, p.OW(), p);
  sum.taps.at += c;
  sum.taps_column = C;
  sum.out = {accumulators, 0, p.S * kLanes};
  sum.init = Init::accumulate;
  correlate<Taps::in_place>(sum);
}

void grad_weight(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const GradWeightTasks tasks(p);
  const Reduction reduction = tasks.reduction(p);
  const int64_t taps = p.R * p.S;
  reduce_chunks(p, reduction, tasks.vectors, workspace, static_cast<float*>(ops.out), executor,
                [&](int64_t vector, Range units, float* accumulators, float* partial) {
                  const int64_t c = vector * kLanes;
                  set_zero(accumulators, taps * kLanes);
                  for (int64_t unit = units.begin; unit < units.end; ++unit) {
                    accumulate_pixels(p, ops, tasks, unit, c, accumulators);
                  }
                  lanes_to_images(partial + c * taps, {taps, kLanes}, taps,
                                  VectorCursor(accumulators, kLanes, taps, 0));
                });
}

int64_t grad_weight_workspace(const Problem& p, int threads) {
  return GradWeightTasks(p).reduction(p).workspace(threads);
}

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
