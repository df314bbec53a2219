// What forward and grad_input share: each is a correlation of pixels with panels of taps, or one
// for each residue of gx modulo the stride.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

// The outputs at rows row + u * row_step, columns column + v * column_step.
struct Part {
  Axis rows, columns;
  int64_t row, column, row_step, column_step;
  int64_t packed;  // where its taps are, in floats
  int64_t taps() const { return rows.taps * columns.taps; }
};

// Outputs [v, v + pixels) of a row, and taps that reach real columns for all of them.
struct Run {
  int64_t v, pixels;
  Range taps;
  bool first, last;  // of the runs of these outputs
};

// The runs of a row, in tiles of at most `tile` outputs: for each tile a run of the taps that reach
// real columns for all its outputs; before it, where there are others, a run without taps and a run
// for each of the others.
std::vector<Run> runs_of(const Axis& columns, int64_t tile) {
  std::vector<Run> runs;
  const int64_t parts = ceil_div(columns.out, tile);
  const Axis outputs = swap_roles(columns);
  for (int64_t i = 0; i < parts; ++i) {
    const Range v = near_equal_part(columns.out, parts, i);
    const Range some = taps_in_range(columns, v);
    Range all = taps_all_in_range(columns, v);
    if (all.empty()) all = {some.begin, some.begin};
    const bool edges = all.begin != some.begin || all.end != some.end;
    if (edges) runs.push_back({v.begin, v.size(), {0, 0}, true, false});
    for (int64_t k = some.begin; k < some.end; ++k) {
      if (k >= all.begin && k < all.end) continue;
      const Range reached = taps_in_range(outputs, {k, k + 1});
      const Range u{std::max(v.begin, reached.begin), std::min(v.end, reached.end)};
      if (!u.empty()) runs.push_back({u.begin, u.size(), {k, k + 1}, false, false});
    }
    runs.push_back({v.begin, v.size(), all, !edges, true});
  }
  return runs;
}

constexpr int64_t kBandFloats = (1 << 20) / sizeof(Real);  // aimed at, of the inputs of a band

struct Correlations {
  ImageShape in, out;
  int64_t groups, terms, columns;  // of a group: channels of `in` and of `out`
  std::vector<Part> parts;
  Panels panels;
  Bands bands;
  int64_t slices;       // of a band's panels
  int64_t packed = 0;   // floats of the taps of a group
  int64_t in_rows = 0;  // of an image that a band reads, at most
  int64_t out_rows;     // of an image in a band, at most

  Correlations(const Problem& p, const ImageShape& in, const ImageShape& out,
               std::vector<Part> list)
      : in(in),
        out(out),
        groups(p.groups),
        terms(in.channels / p.groups),
        columns(out.channels / p.groups),
        parts(std::move(list)),
        panels(columns),
        bands(bands_of(p.N)) {
    slices = std::min(panels.count, ceil_div(kTasks, bands.count() * groups));
    out_rows = std::min(out.height, bands.band_rows * parts[0].row_step);
    for (Part& part : parts) {
      part.packed = packed;
      packed += PackedTaps(part.taps(), terms).floats(panels);
    }
    for (int64_t band = 0; band < bands.row_bands; ++band) {
      in_rows = std::max(in_rows, rows_read(bands.rows_of(band)).size());
    }
  }

  Bands bands_of(int64_t batch) const {
    const Axis &rows = parts[0].rows, &columns = parts[0].columns;
    const int64_t pixels = columns.out * static_cast<int64_t>(parts.size());  // of a row
    const int64_t floats = rows.out_step * in.width * whole_vectors(terms);   // that it reads
    return {batch, rows.out, std::min(kBandPixels / pixels, kBandFloats / floats), kTasks,
            ceil_div(64, pixels)};
  }

  // Rows of `in` that the outputs u of all parts read.
  Range rows_read(Range u) const {
    Range read{in.height, 0};
    for (const Part& part : parts) {
      const Range outputs{u.begin, std::min(u.end, part.rows.out)};
      if (outputs.empty() || part.taps() == 0) continue;
      const Range rows = inputs_read(part.rows, outputs);
      read = {std::min(read.begin, rows.begin), std::max(read.end, rows.end)};
    }
    return read.empty() ? Range{0, 0} : read;
  }

  // A thread's buffers: a band's inputs, where they are NCHW, and a panel of its outputs, where
  // they are NCHW or not Real.
  Pixels<Real> in_buffer(Real* at) const { return runs_buffer(at, terms, in.width, in_rows); }
  Pixels<Real> out_buffer(Real* at) const {
    const int64_t width = std::min<int64_t>(kPanelVectors * kLanes, panels.width());
    return {at, width, width * out.width, width * out.width * out_rows};
  }
  bool reads_in_place() const { return in.layout == Layout::nhwc; }
  bool writes_in_place() const {
    return std::is_same_v<Result, Real> && out.layout == Layout::nhwc;
  }
  int64_t in_floats() const {
    return reads_in_place() ? 0 : bands.images * in_buffer(nullptr).image;
  }
  int64_t thread_floats() const {
    return in_floats() + (writes_in_place() ? 0 : bands.images * out_buffer(nullptr).image);
  }
  int64_t workspace(int threads) const {
    return (packed * groups + thread_floats() * threads) * static_cast<int64_t>(sizeof(Real));
  }
};

// Calls pack(part, group, panel, terms, rows) for all parts' panels and blocks of terms, whose rows
// are to be packed at `rows`.
template <class Pack>
void pack_panels(const Problem& p, const Correlations& all, Real* packed, const Executor& executor,
                 const Pack& pack) {
  const int64_t count = all.groups * all.panels.count;
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / all.panels.count;
      const Panel panel = all.panels.at(i % all.panels.count);
      for (size_t part = 0; part < all.parts.size(); ++part) {
        const PackedTaps taps(all.parts[part].taps(), all.terms);
        Real* first = packed + group * all.packed + all.parts[part].packed;
        for (int64_t block = 0; block < taps.blocks; ++block) {
          const Range terms = taps.block(block);
          pack(part, group, panel, terms, first + taps.offset(panel, terms));
        }
      }
    }
  });
}

// One panel of the outputs of some rows of some images.
struct PanelTask {
  const Correlations& all;
  Panel panel;
  Range images, u;
  Pixels<const Real> x;  // of the first image, row in_rows.begin
  Range in_rows;
  Pixels<Real> y;  // of the first image, row u.begin * row_step
  int lanes;       // of the last vector of a row of y that are in memory
  const Real* bias;
  bool relu;

  void run(const Real* packed) const {
    for (const Part& part : all.parts) {
      const PackedTaps taps(part.taps(), all.terms);
      const int64_t tile = tile_rows(static_cast<int>(panel.vectors()));
      const std::vector<Run> runs = runs_of(part.columns, tile);
      for (int64_t block = 0; block < taps.blocks; ++block) {
        const Range terms = taps.block(block);
        const Real* rows = packed + part.packed + taps.offset(panel, terms);
        const bool last = block == taps.blocks - 1;
        for (int64_t image = 0; image < images.size(); ++image) {
          for (int64_t row = u.begin; row < std::min(u.end, part.rows.out); ++row) {
            run_row(part, runs, terms, rows, image, row, block == 0, last);
          }
        }
      }
    }
  }

  void run_row(const Part& part, const std::vector<Run>& runs, Range terms, const Real* packed,
               int64_t image, int64_t row, bool first, bool last) const {
    const Axis &rows = part.rows, &columns = part.columns;
    const Range m = taps_in_range(rows, {row, row + 1});
    const int64_t width = panel.width(), row_taps = columns.taps * terms.size() * width;
    const int64_t in_row = rows.offset + row * rows.out_step + m.begin * rows.tap_step;
    const int64_t out_row = part.row + (row - u.begin) * part.row_step;
    MatmulTile t;
    t.out_row = part.column_step * y.pixel;
    t.a_row = columns.out_step * x.pixel;
    t.b_k = width;
    t.lanes = lanes;
    t.bias = bias;
    t.block = block_of_products(part.taps() * all.terms);
    for (const Run& run : runs) {
      const Range k = run.taps;
      if (!first && k.empty() && !run.last) continue;
      const int64_t column = columns.offset + run.v * columns.out_step + k.begin * columns.tap_step;
      t.a = x.at + image * x.image + (in_row - in_rows.begin) * x.row + column * x.pixel +
            terms.begin;
      t.a_k = 1;
      t.a_inner = columns.tap_step * x.pixel;
      t.a_outer = rows.tap_step * x.row;
      t.b = packed + m.begin * row_taps + k.begin * terms.size() * width;
      t.b_inner = terms.size() * width;
      t.b_outer = row_taps;
      t.k = terms.size();
      t.inner = k.size();
      t.outer = m.empty() ? 0 : m.size();
      t.join_runs();
      t.out = y.at + image * y.image + out_row * y.row +
              (part.column + run.v * part.column_step) * y.pixel;
      t.init = !first || !run.first ? Init::accumulate : bias == nullptr ? Init::zero : Init::bias;
      t.relu = relu && last && run.last;
      matmul_of(run.pixels, panel.vectors())(t);
    }
  }
};

// All outputs. `packed` holds the taps of each group, `memory` the threads' buffers. T is Result.
template <class T>
void correlate(const Problem& p, const Correlations& all, const Real* in, const Real* packed,
               const Real* bias, bool relu, T* out, Real* memory, const Executor& executor) {
  const bool in_place = all.writes_in_place();
  const int64_t tasks = all.bands.count() * all.groups * all.slices;
  executor.run(tasks, task_grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    Real* buffers = memory + thread * all.thread_floats();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / all.slices % all.groups;
      const int64_t band = task / all.slices / all.groups;
      const Range slice = near_equal_part(all.panels.count, all.slices, task % all.slices);
      const Range images = all.bands.images_of(band), u = all.bands.rows_of(band);
      const Range in_rows = all.rows_read(u);
      const Range terms = shifted({0, all.terms}, group * all.terms);
      const int64_t row_step = all.parts[0].row_step;
      const Range out_rows{u.begin * row_step, std::min(all.out.height, u.end * row_step)};
      const Pixels<Real> x_buffer = all.in_buffer(buffers);
      Pixels<const Real> x = pixels_of(in, all.in, images.begin, in_rows.begin, terms.begin);
      if (!all.reads_in_place()) {
        load_pixels(in, all.in, images, in_rows, terms, x_buffer);
        x = x_buffer.read_only();
      }
      for (int64_t index = slice.begin; index < slice.end; ++index) {
        const Panel panel = all.panels.at(index);
        const int64_t channel = group * all.columns + panel.first;
        Pixels<Real> y = all.out_buffer(buffers + all.in_floats());
        if constexpr (std::is_same_v<T, Real>) {
          if (in_place) y = pixels_of(out, all.out, images.begin, out_rows.begin, channel);
        }
        const int lanes = in_place ? panel.last_lanes() : kLanes;
        PanelTask{
            all, panel, images, u, x, in_rows, y, lanes, bias == nullptr ? nullptr : bias + channel,
            relu}
            .run(packed + group * all.packed);
        if (!in_place) {
          store_pixels(out, all.out, images, out_rows, {channel, channel + panel.columns}, y);
        }
      }
    }
  });
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
