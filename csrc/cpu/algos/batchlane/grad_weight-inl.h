// direct_batchlane grad_weight: gw from gy and x. Every lane sums its own images; lanes, then
// chunks of images are added last.
#pragma once

namespace convkern::cpu {
namespace {

// Output channels of a group are cut into slices whose accumulators fit the cache.
struct Slices {
  int64_t in_group, channels;  // slices of a group, channels of a slice at most
  int64_t weights;             // gw elements of an output channel

  explicit Slices(const Problem& p) : weights(p.Cg * p.R * p.S) {
    const int64_t bytes = weights * kLanes * static_cast<int64_t>(sizeof(float));
    const int64_t fitting = std::max<int64_t>(1, kAccumulatorBytes / bytes);
    in_group = ceil_div(p.Og(), fitting);
    channels = ceil_div(p.Og(), in_group);
  }
  int64_t accumulator_floats() const { return channels * weights * kLanes; }
  // The output channels of a slice of all groups' slices.
  Range range(const Problem& p, int64_t slice) const {
    const int64_t first = slice / in_group * p.Og();
    const Range part = near_equal_part(p.Og(), in_group, slice % in_group);
    return {first + part.begin, first + part.end};
  }
};

Blocking grad_weight_blocking(const Problem& p) {
  const Axis rows = forward_rows(p);
  const int64_t channels = Slices(p).channels;
  Window window(p.W);
  window.cover(forward_columns(p));
  auto make = [&](int64_t n) {
    return Buffers(p.Cg, input_rows(rows, n), window.width(), channels, n, p.OW());
  };
  const int64_t n = rows_in_band(rows.out, 1, make);
  return {p, rows.out, n, make(n), window};
}

// The sum over image blocks and bands of gy rows, cut into chunks. The cut must not depend on the
// number of threads.
struct Reduction {
  int64_t units, chunks;  // (block, band) pairs; parts of them that are summed on their own
  int64_t gw_size;
  int64_t thread_floats;  // a thread's buffers and accumulators

  Reduction(const Problem& p, const Blocking& blocking, const Slices& slices)
      : units(blocking.blocks * blocking.bands),
        gw_size(p.O * slices.weights),
        thread_floats(blocking.buffers.x_floats + blocking.buffers.y_floats +
                      slices.accumulator_floats()) {
    const int64_t affordable = kPartialBytes / (gw_size * static_cast<int64_t>(sizeof(float)));
    chunks = std::min({units, kMaxChunks, std::max<int64_t>(1, affordable)});
  }
  // Workspace: the sum of all chunks in double, the chunks, then each thread's floats.
  int64_t total_bytes() const { return ceil_div(gw_size, 8) * 64; }
  int64_t partial_bytes() const { return ceil_div(chunks * gw_size, 16) * 64; }
};

// Adds the products of one band of gy rows of a block of images to the accumulators of the output
// channels, all of one group.
void accumulate_band(const Problem& p, const Operands& ops, const Blocking& blocking, int64_t unit,
                     Range channels, float* memory, float* accumulators) {
  const ImageShape xs = x_shape(p), ys = y_shape(p);
  const Buffers& buffers = blocking.buffers;
  const View<float> x = buffers.x(memory), gy = buffers.y(memory + buffers.x_floats);
  const int64_t Cg = p.Cg, group = channels.begin / p.Og(), block = unit / blocking.bands;
  const Range band = blocking.band(p.OH(), unit % blocking.bands);
  const Range in = inputs_read(forward_rows(p), band);
  if (in.empty()) return;
  const View<float> image{x.at - blocking.window.low * kLanes, x.plane, x.row};
  load_rows(static_cast<const float*>(ops.x) + block * kLanes * xs.size(),
            blocking.images(p, block, xs), xs, in, {group * Cg, (group + 1) * Cg}, image);
  load_rows(static_cast<const float*>(ops.gy) + block * kLanes * ys.size(),
            blocking.images(p, block, ys), ys, band, channels, gy);
  Correlation sum;
  sum.rows = restrict_taps(swap_roles(forward_rows(p)), band, in);
  sum.columns = swap_roles(forward_columns(p));
  sum.init = Init::accumulate;
  sum.channels = channels.size();
  sum.taps = {gy.at, gy.plane, gy.row};
  sum.taps_channel = gy.plane;
  for (int64_t c = 0; c < Cg; ++c) {
    sum.in = {image.at + c * image.plane, image.plane, image.row};
    sum.out = {accumulators + c * p.R * p.S * kLanes, Cg * p.R * p.S * kLanes, p.S * kLanes};
    correlate<Taps::vector>(sum);
  }
}

// gw = the sum of the chunks, in order.
void add_chunks(const Reduction& reduction, const float* partial, double* total, float* gw) {
  const int64_t n = reduction.gw_size;
  for (int64_t e = 0; e < n; ++e) total[e] = partial[e];
  for (int64_t chunk = 1; chunk < reduction.chunks; ++chunk) {
    for (int64_t e = 0; e < n; ++e) total[e] += partial[chunk * n + e];
  }
  for (int64_t e = 0; e < n; ++e) gw[e] = static_cast<float>(total[e]);
}

void grad_weight(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const Blocking blocking = grad_weight_blocking(p);
  const Buffers& buffers = blocking.buffers;
  const Slices slices(p);
  const Reduction reduction(p, blocking, slices);
  char* at = static_cast<char*>(workspace);
  auto* total = reinterpret_cast<double*>(at);
  auto* partial = reinterpret_cast<float*>(at += reduction.total_bytes());
  auto* threads = reinterpret_cast<float*>(at + reduction.partial_bytes());

  const int64_t all_slices = p.groups * slices.in_group, tasks = all_slices * reduction.chunks;
  executor.run(tasks, blocking.grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    float* memory = threads + thread * reduction.thread_floats;
    float* accumulators = memory + buffers.x_floats + buffers.y_floats;
    set_zero(memory, buffers.x_floats);  // the zeros around the columns stay
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / all_slices;
      const Range channels = slices.range(p, task % all_slices);
      const Range units = near_equal_part(reduction.units, reduction.chunks, chunk);
      set_zero(accumulators, slices.accumulator_floats());
      for (int64_t unit = units.begin; unit < units.end; ++unit) {
        accumulate_band(p, ops, blocking, unit, channels, memory, accumulators);
      }
      sum_lanes(accumulators, channels.size() * slices.weights,
                partial + chunk * reduction.gw_size + channels.begin * slices.weights);
    }
  });
  add_chunks(reduction, partial, total, static_cast<float*>(ops.out));
}

int64_t grad_weight_workspace(const Problem& p, int threads) {
  const Reduction reduction(p, grad_weight_blocking(p), Slices(p));
  return reduction.total_bytes() + reduction.partial_bytes() +
         reduction.thread_floats * static_cast<int64_t>(sizeof(float)) * threads;
}

}  // namespace
}  // namespace convkern::cpu
