// direct_channellane grad_weight: gw from gy and x. Every lane sums its own channel.
#pragma once

namespace convkern::cpu {
namespace {
namespace channellane {

struct GradWeightTasks : Tasks {
  PixelBuffers buffers;  // of x and gy

  explicit GradWeightTasks(const Problem& p)
      : Tasks(p, p.OH()),
        buffers(p, input_rows(forward_rows(p), band_rows), p.W, band_rows, p.OW()) {}
  Reduction reduction(const Problem& p) const {
    return {p, p.N * bands, /*buffer_floats=*/0, p.R * p.S * kLanes + buffers.floats()};
  }
};

// Adds the products of one band of gy rows of an image to the accumulators of a vector of channels
// from c on, followed by the buffers; in sums of about kBlockTerms.
void accumulate_pixels(const Problem& p, const Operands& ops, const GradWeightTasks& tasks,
                       int64_t unit, int64_t c, float* accumulators) {
  const Axis rows = forward_rows(p);
  const int64_t n = unit / tasks.bands;
  const Range band = tasks.band(unit % tasks.bands), channels{c, c + kLanes};
  const Range in = inputs_read(rows, band);
  if (in.empty()) return;
  float* buffer = accumulators + p.R * p.S * kLanes;
  const Pixels<const float> x = read_pixels(ops.x, x_shape(p), n, in, channels, buffer);
  const Pixels<const float> gy =
      read_pixels(ops.gy, y_shape(p), n, band, channels, buffer + tasks.buffers.in_floats);
  Correlation sum;
  sum.columns = swap_roles(forward_columns(p));
  read_from(sum, x);
  sum.taps_column = gy.pixel;
  sum.out = {accumulators, 0, p.S * kLanes};
  sum.init = Init::accumulate;
  const int64_t parts = ceil_div(band.size(), ceil_div(kBlockTerms, p.OW()));
  for (int64_t part = 0; part < parts; ++part) {
    const Range u = near_equal_part(band.size(), parts, part);
    sum.rows = restrict_taps(swap_roles(rows), shifted(u, band.begin), in);
    sum.taps = {gy.at + u.begin * gy.row, 0, gy.row};
    correlate<Taps::in_place>(sum);
  }
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
