// Computes forward and grad_input of implicit_gemm. Forward is one correlation of pixels with
// panels of taps (a Part). grad_input is one for each residue of gx modulo the stride. Terms are
// the channels of the input, which are summed over, and columns are the channels of the result. A
// task computes one band of pixels of all parts, for a slice of the panels of one group.
#pragma once

#include "cpu/blocking/bands-inl.h"
#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/panels-inl.h"
#include "cpu/blocking/pixels-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/matmul-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

constexpr int64_t kBandPixels = 512;      // target: enough pixels to pay for fetching a panel
constexpr int64_t kLeastBandPixels = 64;  // smaller bands of one image are not cut further
constexpr int64_t kTasks = 8;             // bands are cut until there are so many tasks

// One correlation. Its output (u, v) is at row row + u * row_step and column column + v *
// column_step of the result.
struct Part {
  Axis rows, columns;
  int64_t row, column, row_step, column_step;
  int64_t packed;  // offset of its taps among the group's packed taps, in floats
  int64_t taps() const { return rows.taps * columns.taps; }
};

// One step of the computation of a row: the taps of a row that are added to the outputs
// [v, v + pixels). These taps reach real columns for all of these outputs.
struct Run {
  int64_t v, pixels;
  Range taps;
  bool first, last;  // whether it is the first, or the last, run of its tile
};

// Returns the runs of a row, which is cut into tiles of at most `tile` outputs. The last run of a
// tile has the taps that reach real columns for all its outputs. If there are taps that do so only
// for some, the first run has no taps and only starts the sums, and each of these taps has a run of
// its own between them.
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

constexpr int64_t kBandFloats = (1 << 20) / sizeof(Real);  // target for the inputs of a band

// Pixels of more terms are not prefetched, because they would displace what the tile reads.
constexpr int64_t kFetchedTerms = 256;
// Taps of a group that take more floats do not stay in the L2 cache from tile to tile.
constexpr int64_t kCachedTaps = (256 << 10) / sizeof(Real);

// All correlations of a pass, and how they are cut into tasks.
struct Correlations {
  ImageShape in, out;
  int64_t groups, terms, columns;  // terms and columns: channels of `in` and `out` in a group
  std::vector<Part> parts;
  Panels panels;
  Bands bands;
  int64_t slices;      // parts that the panels of a group are cut into
  int64_t taps = 0;    // taps of all parts
  int64_t packed = 0;  // floats of a group's packed taps
  // The most rows of `in` that one tap row reads for a band, if the buffer holds only the rows that
  // taps read. Otherwise 0, and the buffer also holds the rows between them.
  int64_t tap_rows = 0;
  int64_t in_rows = 0, in_width = 0;  // the most rows and columns of an image that a band reads
  int64_t out_rows, out_width;        // the most rows and columns of an image that a band writes

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
    out_width = std::min(out.width, bands.band_columns * parts[0].column_step);
    for (Part& part : parts) {
      part.packed = packed;
      packed += PackedTaps(part.taps(), terms).floats(panels);
      taps += part.taps();
    }
    in_rows = most_read(&Part::rows, bands.band_rows);
    in_width = bands.column_bands == 1 ? in.width : most_read(&Part::columns, bands.band_columns);
    const Axis& rows = parts[0].rows;
    const int64_t of_tap = (bands.band_rows - 1) * rows.out_step + 1;
    if (!reads_in_place() && parts.size() == 1 && rows.taps * of_tap < in_rows) {
      tap_rows = of_tap;
      in_rows = rows.taps * of_tap;
    }
  }

  Bands bands_of(int64_t batch) const {
    const Axis &rows = parts[0].rows, &columns = parts[0].columns;
    const int64_t pixels = columns.out * static_cast<int64_t>(parts.size());  // of a row, all parts
    const int64_t in_row = in.width * whole_vectors(terms);
    const int64_t most = std::min(kBandPixels / pixels, kBandFloats / in_row / rows.out_step);
    // This is about the number of floats that one row of outputs takes in the buffers.
    const int64_t floats =
        in_row * std::min(rows.taps + 1, in.height) + pixels * kPanelVectors * kLanes;
    const int64_t most_columns =
        floats <= 4 * kBandFloats
            ? columns.out
            : std::min(columns.out,
                       std::max(kLeastBandColumns, columns.out * kBandFloats / floats));
    return {batch,       rows.out,    most, kTasks, ceil_div(kLeastBandPixels, pixels),
            columns.out, most_columns};
  }

  // Returns the rows or columns of `in` that the outputs u of all parts read.
  Range read_by(Axis Part::* axis, Range u) const {
    Range read{(parts[0].*axis).in, 0};
    for (const Part& part : parts) {
      const Range outputs{u.begin, std::min(u.end, (part.*axis).out)};
      if (outputs.empty() || part.taps() == 0) continue;
      const Range inputs = inputs_read(part.*axis, outputs);
      read = {std::min(read.begin, inputs.begin), std::max(read.end, inputs.end)};
    }
    return read.empty() ? Range{0, 0} : read;
  }

  // Returns the most rows or columns of `in` that `outputs` neighbouring outputs of all parts read.
  int64_t most_read(Axis Part::* axis, int64_t outputs) const {
    Range read{0, 0};
    for (const Part& part : parts) {
      if (part.taps() == 0) continue;
      const Axis& along = part.*axis;
      const Range inputs{along.offset, along.offset + (outputs - 1) * along.out_step +
                                           (along.taps - 1) * along.tap_step + 1};
      read = read.empty()
                 ? inputs
                 : Range{std::min(read.begin, inputs.begin), std::max(read.end, inputs.end)};
    }
    return std::min((parts[0].*axis).in, read.size());
  }

  Range rows_read(Range u) const { return read_by(&Part::rows, u); }
  Range columns_read(Range v) const {
    return bands.column_bands == 1 ? Range{0, in.width} : read_by(&Part::columns, v);
  }

  // These return the rows and columns of `out` that belong to the outputs u and v of all parts.
  Range out_rows_of(Range u) const {
    const int64_t step = parts[0].row_step;
    return {u.begin * step, std::min(out.height, u.end * step)};
  }
  Range out_columns_of(Range v) const {
    const int64_t step = parts[0].column_step;
    return {v.begin * step, std::min(out.width, v.end * step)};
  }

  // Copies the region `read` to the buffer `to` of a band whose outputs are in rows u.
  void load(const Real* tensor, const Region& read, Range u, const Pixels<Real>& to) const {
    if (tap_rows == 0) return load_pixels(tensor, in, read, to);
    const Axis& rows = parts[0].rows;
    const int64_t of_tap = (u.size() - 1) * rows.out_step + 1;
    for (int64_t tap = 0; tap < rows.taps; ++tap) {
      const int64_t first = rows.offset + u.begin * rows.out_step + tap * rows.tap_step;
      Region part = read;
      part.rows = {std::max<int64_t>(0, first), std::min(in.height, first + of_tap)};
      if (part.rows.empty()) continue;
      Pixels<Real> at = to;
      at.at += (tap * tap_rows + part.rows.begin - first) * to.row;
      load_pixels(tensor, in, part, at);
    }
  }

  // Returns the number of products that are summed in one sequence. With a single tap, sequences
  // are longer, because torch then sums all products of an output in one.
  int64_t block_of(const Part& part) const {
    return taps == 1 ? near_equal_block(terms, kMostBlock) : block_of_products(part.taps() * terms);
  }

  // These return a thread's buffers: the inputs of a band if they are NCHW, and one panel of its
  // outputs if these are NCHW or of another type than Real.
  Pixels<Real> in_buffer(Real* at) const { return runs_buffer(at, terms, in_width, in_rows); }
  Pixels<Real> out_buffer(Real* at) const {
    const int64_t width = std::min<int64_t>(kPanelVectors * kLanes, panels.width());
    return {at, width, width * out_width, width * out_width * out_rows};
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

// Calls pack(part, group, panel, terms, rows) for every part, group, panel and block of terms. It
// must pack the taps at `rows`.
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

// Computes the outputs of one band in the columns of one panel.
struct PanelTask {
  const Correlations& all;
  Panel panel;
  Range images, u, v;         // the images, output rows and output columns of the band
  Pixels<const Real> x;       // the input from the first row and column below on
  Range in_rows, in_columns;  // the rows and columns that the band reads
  Pixels<Real> y;  // the result from row u.begin * row_step, column v.begin * column_step on
  int lanes;       // lanes of a pixel's last vector that y has room for
  const Real* bias;
  const Epilogue* bounds;

  // Taps that are prefetched while the tiles of the block before them are computed, which read
  // their own from the L2 cache. Otherwise the first tile of each block waits for memory, and the
  // others leave it idle.
  struct Fetch {
    const Real *at, *end;

    // Returns what a tile with so many products prefetches, or null.
    const Real* take(const Correlations& all, int64_t products) {
      if (all.packed <= kCachedTaps || end - at < products * kLine) return nullptr;
      const Real* from = at;
      at += products * kLine;
      return from;
    }
  };

  void run(const Real* packed) const {
    for (const Part& part : all.parts) {
      const PackedTaps taps(part.taps(), all.terms);
      const int64_t tile = tile_rows(static_cast<int>(panel.vectors()));
      const Range outputs{v.begin, std::min(v.end, part.columns.out)};
      if (outputs.empty()) continue;
      const Axis columns = restrict_outputs(part.columns, outputs, in_columns);
      const std::vector<Run> runs = runs_of(columns, tile);
      for (int64_t block = 0; block < taps.blocks; ++block) {
        const Range terms = taps.block(block);
        const Real* rows = packed + part.packed + taps.offset(panel, terms);
        const bool last = block == taps.blocks - 1;
        // The taps of the next block lie behind those of this one.
        const int64_t floats = part.taps() * terms.size() * panel.width();
        Fetch next{rows + floats, std::min(rows + 2 * floats, packed + all.packed)};
        for (int64_t image = 0; image < images.size(); ++image) {
          for (int64_t row = u.begin; row < std::min(u.end, part.rows.out); ++row) {
            run_row(part, columns, runs, terms, rows, image, row, block == 0, last, next);
          }
        }
      }
    }
  }

  void run_row(const Part& part, const Axis& columns, const std::vector<Run>& runs, Range terms,
               const Real* packed, int64_t image, int64_t row, bool first, bool last,
               Fetch& next) const {
    const Axis& rows = part.rows;
    const Range m = taps_in_range(rows, {row, row + 1});
    const int64_t width = panel.width(), row_taps = columns.taps * terms.size() * width;
    const bool of_taps = all.tap_rows > 0;
    const int64_t tap_step = of_taps ? all.tap_rows : rows.tap_step;
    const int64_t in_row = (of_taps ? (row - u.begin) * rows.out_step
                                    : rows.offset + row * rows.out_step - in_rows.begin) +
                           m.begin * tap_step;
    const int64_t out_row = part.row + (row - u.begin) * part.row_step;
    MatmulTile t;
    t.out_row = part.column_step * y.pixel;
    t.a_row = columns.out_step * x.pixel;
    t.b_k = width;
    t.lanes = lanes;
    t.bias = bias;
    t.bias_lanes = panel.last_lanes();
    t.block = all.block_of(part);
    for (const Run& run : runs) {
      const Range k = run.taps;
      if (!first && k.empty() && !run.last) continue;
      const int64_t column = columns.offset + run.v * columns.out_step + k.begin * columns.tap_step;
      t.a = x.at + image * x.image + in_row * x.row + column * x.pixel + terms.begin;
      t.a_k = 1;
      t.a_inner = columns.tap_step * x.pixel;
      t.a_outer = tap_step * x.row;
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
      t.bounds = last && run.last ? bounds : nullptr;
      t.fetched = next.take(all, t.outer * t.inner * t.k);
      if (all.reads_in_place() && all.taps == 1 && t.k <= kFetchedTerms) {
        fetch_pixels(t, run.pixels);
      }
      matmul_of(run.pixels, panel.vectors())(t);
    }
  }

  // Prefetches the pixels of the next tile, so that they arrive while the products of this one are
  // computed. For the first panel of a band they come from memory.
  static void fetch_pixels(const MatmulTile& t, int64_t pixels) {
    for (int64_t i = pixels; i < 2 * pixels; ++i) {
      for (int64_t k = 0; k < t.k; k += kLine) __builtin_prefetch(t.a + i * t.a_row + k);
    }
  }
};

// Computes all outputs. `packed` holds the packed taps of all groups, and `memory` the threads'
// buffers. T is Result; it is a parameter so that `if constexpr` can depend on it.
template <class T>
void correlate(const Problem& p, const Correlations& all, const Real* in, const Real* packed,
               const Real* bias, const Epilogue& epilogue, T* out, Real* memory,
               const Executor& executor) {
  const bool in_place = all.writes_in_place();
  const int64_t tasks = all.bands.count() * all.groups * all.slices;
  executor.run(tasks, task_grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    Real* buffers = memory + thread * all.thread_floats();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / all.slices % all.groups;
      const int64_t band = task / all.slices / all.groups;
      const Range slice = near_equal_part(all.panels.count, all.slices, task % all.slices);
      const Range images = all.bands.images_of(band);
      const Range u = all.bands.rows_of(band), v = all.bands.columns_of(band);
      const Region inputs{images, all.rows_read(u), all.columns_read(v),
                          shifted({0, all.terms}, group * all.terms)};
      Region outputs{images, all.out_rows_of(u), all.out_columns_of(v), {}};
      Pixels<const Real> x = pixels_of(in, all.in, inputs);
      if (!all.reads_in_place()) {
        const Pixels<Real> buffer = all.in_buffer(buffers);
        all.load(in, inputs, u, buffer);
        x = buffer.read_only();
      }
      for (int64_t index = slice.begin; index < slice.end; ++index) {
        const Panel panel = all.panels.at(index);
        const int64_t channel = group * all.columns + panel.first;
        outputs.channels = {channel, channel + panel.columns};
        Pixels<Real> y = all.out_buffer(buffers + all.in_floats());
        if constexpr (std::is_same_v<T, Real>) {
          if (in_place) y = pixels_of(out, all.out, outputs);
        }
        PanelTask{all,
                  panel,
                  images,
                  u,
                  v,
                  x,
                  inputs.rows,
                  inputs.columns,
                  y,
                  in_place ? panel.last_lanes() : kLanes,
                  bias == nullptr ? nullptr : bias + channel,
                  epilogue.if_bounds()}
            .run(packed + group * all.packed);
        if (!in_place) store_pixels(out, all.out, outputs, y);
        if constexpr (std::is_same_v<T, Real>) finish_region(epilogue, out, all.out, outputs);
      }
    }
  });
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
