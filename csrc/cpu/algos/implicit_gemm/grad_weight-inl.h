// The grad_weight pass of implicit_gemm: computes gw from gy and x. For each tap it is a matrix
// product that sums over pixels: x (channels x pixels) times gy (pixels x output channels). The
// channels of gy are the columns of panels. They are read in place if they are adjacent and whole
// vectors, and otherwise copied. Tensors in channels_last are copied too where their pixels are far
// apart (packs_x, packs_gy), and x of NCHW is read in place.
#pragma once

#include "cpu/algos/implicit_gemm/correlate-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

// The tasks of the pass. A task sums the products of some bands of gy's pixels for one slice of gw.
struct WeightTasks : WeightSlices {
  Bands bands;
  int64_t x_rows, x_columns;  // the most rows and columns of x in an image that a band reads

  explicit WeightTasks(const Problem& p)
      : WeightSlices(p, panels_in_cache(p),
                     [&](int64_t width) { return channels_in_cache(p, width); }),
        bands(p.N, p.OH(),
              std::min(kBandPixels / p.OW(), kSlabFloats / (p.stride_h * p.W * channels)), 1, 1,
              p.OW(), std::min(p.OW(), kBandColumns)) {
    x_rows = input_rows(forward_rows(p), bands.band_rows);
    x_columns = bands.column_bands == 1 ? p.W : input_rows(forward_columns(p), bands.band_columns);
  }

  // A slice of gw has up to 4 panels, as long as the accumulators of these and 64 channels of x fit
  // the cache. Then it has as many channels of x, up to 256, as fit with its panels.
  static int64_t panels_in_cache(const Problem& p) {
    return std::clamp<int64_t>(kAccumulatorFloats / (p.R * p.S * 64 * kPanelVectors * kLanes), 1,
                               4);
  }
  static int64_t channels_in_cache(const Problem& p, int64_t width) {
    return std::clamp<int64_t>(kAccumulatorFloats / (p.R * p.S * width), 1, 256);
  }

  int64_t accumulator_floats(const Problem& p) const { return p.R * p.S * channels * width; }
  int64_t gy_floats(const Problem& p) const {
    return bands.images * bands.band_rows * bands.band_columns * kPanelVectors * kLanes;
  }
  Pixels<Real> x_buffer(const Problem& p, Real* at) const {
    return vectors_buffer(at, channels, x_columns, x_rows);
  }
  Reduction reduction(const Problem& p) const {
    const int64_t x_floats = packs_x(p) ? bands.images * x_buffer(p, nullptr).image : 0;
    return {p, bands.count(), 0, accumulator_floats(p) + gy_floats(p) + x_floats,
            ceil_div(kTasks, count(p))};
  }

  // Return whether x and gy are copied to buffers. Some channels of pixels that are far apart would
  // use few lines of the cache, and each pixel another page. A panel of gy is copied if many tiles
  // read it.
  static bool packs_x(const Problem& p) { return p.layout == Layout::nhwc && p.C > 128; }
  static bool packs_gy(const Problem& p) {
    return p.layout == Layout::nhwc && p.O > 256 && p.Cg >= 64;
  }

  static constexpr int64_t kAccumulatorFloats = 1 << 16;  // target for the accumulators of a slice
  static constexpr int64_t kSlabFloats = 1 << 16;         // target for the floats of x in a band
  static constexpr int64_t kBandColumns = 1 << 8;         // the most columns of gy in a band
};

// One slice of gw, with the thread's accumulators and the buffers for gy and x.
struct GradWeightSlice {
  const Problem& p;
  const WeightTasks& tasks;
  int64_t group;
  Range panels, channels;  // panels of gy's channels, and channels of x, in the group
  Real *accumulators, *gy, *x;

  void add_band(const Operands& ops, int64_t band) const {
    const Bands& bands = tasks.bands;
    Region outputs{bands.images_of(band), bands.rows_of(band), bands.columns_of(band), {}};
    const Region inputs{
        outputs.images, inputs_read(forward_rows(p), outputs.rows),
        bands.column_bands == 1 ? Range{0, p.W} : inputs_read(forward_columns(p), outputs.columns),
        shifted(channels, group * p.Cg)};
    if (inputs.rows.empty() || inputs.columns.empty()) return;
    const Real* in = static_cast<const Real*>(ops.x);
    Pixels<const Real> from = pixels_of(in, x_shape(p), inputs);
    int64_t channel = 1;  // floats from one channel of x to the next
    if (p.layout == Layout::nchw) {
      channel = p.H * p.W;
      from = {in + (inputs.images.begin * p.C + inputs.channels.begin) * channel +
                  inputs.rows.begin * p.W + inputs.columns.begin,
              1, p.W, p.C * channel};
    } else if (WeightTasks::packs_x(p)) {
      const Pixels<Real> to = tasks.x_buffer(p, x);
      copy_pixels(from, inputs, to);
      from = to.read_only();
    }
    Real* sums = accumulators;
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      const Panel panel = tasks.panels.at(i);
      outputs.channels = shifted({panel.first, panel.first + panel.columns}, group * p.Og());
      add_products(from, channel, inputs, outputs, panel, panel_rows(ops, outputs, panel), sums);
      sums += p.R * p.S * channels.size() * panel.width();
    }
  }

  // Returns the pixels of gy with the channels of a panel: in place if they are whole vectors in
  // channels_last, and otherwise as a copy.
  Pixels<const Real> panel_rows(const Operands& ops, const Region& region,
                                const Panel& panel) const {
    const ImageShape shape = y_shape(p);
    const auto* from = static_cast<const Real*>(ops.gy);
    const int64_t width = panel.width(), row = width * region.columns.size();
    const Pixels<Real> to{gy, width, row, row * region.rows.size()};
    if (shape.layout == Layout::nchw) {
      load_pixels(from, shape, region, to);
    } else {
      const Pixels<const Real> rows = pixels_of(from, shape, region);
      if (panel.columns == width && !WeightTasks::packs_gy(p)) return rows;
      copy_pixels(rows, region, to);
    }
    return to.read_only();
  }

  // Adds the products of the pixels of x and gy to the sums (r, s, channel, column) of one panel.
  void add_products(const Pixels<const Real>& x, int64_t channel, const Region& inputs,
                    const Region& outputs, const Panel& panel, const Pixels<const Real>& gy_panel,
                    Real* sums) const {
    const Axis rows = restrict_taps(swap_roles(forward_rows(p)), outputs.rows, inputs.rows);
    const Axis columns =
        restrict_taps(swap_roles(forward_columns(p)), outputs.columns, inputs.columns);
    const int64_t width = panel.width(), n = channels.size();
    const int64_t parts = ceil_div(n, tile_rows(static_cast<int>(panel.vectors())));
    MatmulTile t;
    t.a_row = channel;
    t.a_k = p.stride_w * x.pixel;
    t.a_inner = p.stride_h * x.row;
    t.b_k = gy_panel.pixel;
    t.b_inner = gy_panel.row;
    t.outer = outputs.images.size();
    t.a_outer = x.image;
    t.b_outer = gy_panel.image;
    t.out_row = width;
    t.lanes = kLanes;
    t.block = block_of_products(p.N * p.OH() * p.OW());
    t.init = Init::accumulate;
    for (int64_t r = 0; r < p.R; ++r) {
      const Range m = taps_in_range(rows, {r, r + 1});
      if (m.empty()) continue;
      for (int64_t s = 0; s < p.S; ++s) {
        const Range v = taps_in_range(columns, {s, s + 1});
        if (v.empty()) continue;
        const Real* a =
            x.at + (rows.offset + r * rows.out_step + m.begin * rows.tap_step) * x.row +
            (columns.offset + s * columns.out_step + v.begin * columns.tap_step) * x.pixel;
        t.b = gy_panel.at + m.begin * gy_panel.row + v.begin * gy_panel.pixel;
        t.k = v.size();
        t.inner = m.size();
        t.join_runs();
        for (int64_t part = 0; part < parts; ++part) {
          const Range c = near_equal_part(n, parts, part);
          t.a = a + c.begin * channel;
          t.out = sums + ((r * p.S + s) * n + c.begin) * width;
          matmul_of(c.size(), panel.vectors())(t);
        }
      }
    }
  }

  void store(Real* gw) const {
    const int64_t weights = p.Cg * p.R * p.S;
    Real* sums = accumulators;
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      const Panel panel = tasks.panels.at(i);
      PanelOfOutputs{weights, p.R * p.S}.unpack(gw + group * p.Og() * weights, panel, channels,
                                                sums);
      sums += p.R * p.S * channels.size() * panel.width();
    }
  }
};

struct GradWeight final : Plan, WeightParts<WeightTasks> {
  using WeightParts::WeightParts;
  int64_t workspace(int threads) const override { return reduction.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

void GradWeight::run(const Operands& ops, void* workspace, const Executor& executor) const {
  reduce_chunks(p, reduction, tasks.count(p), workspace, static_cast<Real*>(ops.out), executor,
                [&](int64_t index, Range units, Real* memory, Real* partial) {
                  Real* gy = memory + tasks.accumulator_floats(p);
                  const GradWeightSlice slice{p,
                                              tasks,
                                              tasks.group_of(index),
                                              tasks.panels_of(index),
                                              tasks.channels_of(p, index),
                                              memory,
                                              gy,
                                              gy + tasks.gy_floats(p)};
                  set_zero(memory, tasks.accumulator_floats(p));
                  for (int64_t unit = units.begin; unit < units.end; ++unit) {
                    slice.add_band(ops, unit);
                  }
                  slice.store(partial);
                });
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
