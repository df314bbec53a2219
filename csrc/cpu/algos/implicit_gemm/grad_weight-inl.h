// implicit_gemm grad_weight: gw from gy and x, a sum over pixels. The output channels of gy are
// packed in panels; x is read in place, whatever its layout.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

// Slices of gw: a panel of output channels of a group, and some of its input channels.
struct GradWeightSlices {
  Panels panels;
  int64_t of_channels, channels;  // slices, and input channels of one at most
  int64_t taps;

  explicit GradWeightSlices(const Problem& p) : panels(p.Og()), taps(p.R * p.S) {
    const int64_t width = std::min<int64_t>(kPanelVectors * kLanes, panels.width());
    const int64_t bytes = taps * width * static_cast<int64_t>(sizeof(float));
    of_channels = ceil_div(p.Cg, std::max<int64_t>(1, kAccumulatorBytes / bytes));
    channels = ceil_div(p.Cg, of_channels);
    panel_width = width;
  }
  int64_t panel_width;
  int64_t in_group() const { return panels.count * of_channels; }
  int64_t accumulator_floats() const { return taps * channels * panel_width; }
};

struct GradWeightTasks {
  GradWeightSlices slices;
  Bands bands;  // of gy

  explicit GradWeightTasks(const Problem& p)
      : slices(p), bands(p.N, p.OH(), p.OW(), p.stride_h * p.W * p.Cg * 4) {}
  int64_t panel_floats(const Problem& p) const {
    return bands.images * bands.band_rows * p.OW() * slices.panel_width;
  }
  Reduction reduction(const Problem& p) const {
    return {p, bands.count(), 0, slices.accumulator_floats() + panel_floats(p)};
  }
};

// The rows of gy of a band, a row of the panel a pixel.
void pack_pixels(const Problem& p, const float* gy, Range images, Range u, const Panel& panel,
                 int64_t channel, float* rows) {
  const ImageShape shape = y_shape(p);
  const int64_t width = panel.width(), row = width * p.OW();
  if (shape.layout == Layout::nchw) {
    load_pixels(gy, shape, images, u, {channel, channel + panel.columns},
                {rows, width, row, row * u.size()});
    return;
  }
  const int lanes = panel.last_lanes();
  for (int64_t image = images.begin; image < images.end; ++image) {
    const float* from = pixels_of(gy, shape, image, u.begin, channel).at;
    for (int64_t n = u.size() * p.OW(); n > 0; --n, from += p.O, rows += width) {
      for (int64_t at = 0; at < width - kLanes; at += kLanes) {
        Vec::load_unaligned(from + at).store(rows + at);
      }
      Vec::load_first(from + width - kLanes, lanes).store(rows + width - kLanes);
    }
  }
}

// Adds the products of a band to accumulators (r, s, channel of the slice, column of the panel).
void accumulate_band(const Problem& p, const Operands& ops, Range images, Range u,
                     const Panel& panel, int64_t group, Range channels, const float* gy,
                     float* accumulators) {
  const Axis rows = forward_rows(p), columns = forward_columns(p);
  const bool nchw = p.layout == Layout::nchw;
  const int64_t pixel = nchw ? 1 : p.C, channel = nchw ? p.H * p.W : 1, row = p.W * pixel;
  const float* x = static_cast<const float*>(ops.x) + images.begin * p.C * p.H * p.W +
                   (group * p.Cg + channels.begin) * channel;
  const int64_t width = panel.width(), n = channels.size();
  const int64_t parts = ceil_div(n, tile_rows(static_cast<int>(panel.vectors())));
  MatmulTile t;
  t.a_row = channel;
  t.a_k = p.stride_w * pixel;
  t.out_row = width;
  t.lanes = kLanes;
  t.init = Init::accumulate;
  t.relu = false;
  for (int64_t r = 0; r < p.R; ++r) {
    const Range m = shifted(taps_in_range(swap_roles(restrict_outputs(rows, u, {0, p.H})), {r, r + 1}), u.begin);
    if (m.empty()) continue;
    for (int64_t s = 0; s < p.S; ++s) {
      const Range v = taps_in_range(swap_roles(columns), {s, s + 1});
      if (v.empty()) continue;
      const float* a = x + (rows.offset + m.begin * p.stride_h + r * p.dilation_h) * row +
                       (columns.offset + v.begin * p.stride_w + s * p.dilation_w) * pixel;
      t.b = gy + ((m.begin - u.begin) * p.OW() + v.begin) * width;
      t.k = v.size();
      t.inner = m.size();
      t.a_inner = p.stride_h * row;
      t.b_inner = p.OW() * width;
      t.outer = images.size();
      t.a_outer = p.C * p.H * p.W;
      t.b_outer = u.size() * p.OW() * width;
      if (t.k == p.OW() && t.a_inner == t.k * t.a_k) {  // rows follow each other as pixels do
        t.k *= t.inner;
        t.inner = 1;
      }
      for (int64_t part = 0; part < parts; ++part) {
        const Range c = near_equal_part(n, parts, part);
        t.a = a + c.begin * channel;
        t.out = accumulators + ((r * p.S + s) * n + c.begin) * width;
        matmul_of(c.size(), panel.vectors())(t);
      }
    }
  }
}

void grad_weight(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const GradWeightTasks tasks(p);
  const GradWeightSlices& slices = tasks.slices;
  const int64_t weights = p.Cg * p.R * p.S;
  reduce_chunks(
      p, tasks.reduction(p), p.groups * slices.in_group(), workspace, static_cast<float*>(ops.out),
      executor, [&](int64_t slice, Range units, float* accumulators, float* partial) {
        const int64_t group = slice / slices.in_group(), in_group = slice % slices.in_group();
        const Panel panel = slices.panels.at(in_group / slices.of_channels);
        const Range channels = near_equal_part(p.Cg, slices.of_channels, in_group % slices.of_channels);
        const int64_t first = group * p.Og();
        float* gy = accumulators + slices.accumulator_floats();
        set_zero(accumulators, slices.accumulator_floats());
        for (int64_t unit = units.begin; unit < units.end; ++unit) {
          const Range images = tasks.bands.images_of(unit), u = tasks.bands.rows_of(unit);
          pack_pixels(p, static_cast<const float*>(ops.gy), images, u, panel, first + panel.first, gy);
          accumulate_band(p, ops, images, u, panel, group, channels, gy, accumulators);
        }
        PanelOfOutputs{weights, p.R * p.S}.unpack(partial + first * weights, panel, channels,
                                                  accumulators);
      });
}

int64_t grad_weight_workspace(const Problem& p, int threads) {
  return GradWeightTasks(p).reduction(p).workspace(threads);
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
