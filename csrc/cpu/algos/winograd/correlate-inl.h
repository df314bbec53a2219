// Computes forward and grad_input of winograd. Both transform the taps and overlapping tiles of the
// input. For each spot of a tile, a matrix product (tiles x terms) times (terms x columns) sums
// over the terms. Its results are transformed to tiles of outputs. Terms are the channels of the
// input, and columns those of the result. If the transformed taps of all channels fit the cache,
// they are computed before the tasks start, and otherwise by each task.
#pragma once

#include "cpu/algos/winograd/squares-inl.h"
#include "cpu/algos/winograd/transforms-inl.h"
#include "cpu/blocking/bands-inl.h"
#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/panels-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/matmul-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

constexpr int64_t kTileBytes = 768 << 10;  // target for a band's transformed tiles and products
constexpr int64_t kTapFloats = 1 << 20;    // the most transformed taps that stay in the cache
constexpr int64_t kBandTiles = 64;         // tiles that make transforming taps for a band pay
constexpr int64_t kTransformedTerms = 64;  // the most terms whose taps it transforms at a time
constexpr int64_t kTileTasks = 4;          // bands and panels are cut until there are so many tasks

// The tiles of a pass, and how they are cut into tasks.
template <class F>
struct Tiles {
  ImageShape in, out;
  int64_t groups, terms, columns;  // terms and columns: channels of `in` and `out` in a group
  Axis row_axis, column_axis;
  int64_t rows, width;  // rows of tiles in an image, and tiles in a row
  Panels panels;
  // Whether each task transforms the taps of its panels itself. If the transformed taps of all
  // panels do not fit the cache, that is faster than reading them from memory.
  bool taps_per_task;
  Bands bands;      // bands of rows of tiles
  int64_t slices;   // parts that the panels of a group are cut into
  int64_t in_rows;  // the most rows of an image that a band reads

  Tiles(const Problem& p, const ImageShape& in, const ImageShape& out, const Axis& row_axis,
        const Axis& column_axis)
      : in(in),
        out(out),
        groups(p.groups),
        terms(in.channels / p.groups),
        columns(out.channels / p.groups),
        row_axis(row_axis),
        column_axis(column_axis),
        rows(ceil_div(row_axis.out, F::kOut)),
        width(ceil_div(column_axis.out, F::kOut)),
        panels(columns),
        taps_per_task(p.O * p.Cg * kSpots<F> > kTapFloats),
        bands(bands_of(p)) {
    slices = std::min(panels.count, ceil_div(kTileTasks, bands.count() * groups));
    in_rows = std::min(in.height, bands.band_rows * F::kOut + 2);
  }

  Bands bands_of(const Problem& p) const {
    const int64_t floats = kSpots<F> * (whole_vectors(terms) + panel_width());
    const int64_t tiles = kTileBytes / static_cast<int64_t>(sizeof(Real)) / floats;
    // Enough tiles make transforming the taps pay, or let the microkernel reuse the taps that it
    // reads.
    const int64_t least = taps_per_task ? kBandTiles : 2 * tile_rows(kPanelVectors);
    const int64_t tasks = taps_per_task ? ceil_div(kTileTasks, panels.count) : kTileTasks;
    return {p.N, rows, std::max<int64_t>(1, std::max(least, tiles) / width), tasks, 1};
  }

  int64_t panel_width() const { return std::min<int64_t>(kPanelVectors * kLanes, panels.width()); }
  Range outputs(Range band) const {
    return {band.begin * F::kOut, std::min(row_axis.out, band.end * F::kOut)};
  }
  // The terms are cut into blocks whose taps are transformed together.
  int64_t term_blocks() const { return taps_per_task ? ceil_div(terms, kTransformedTerms) : 1; }
  int64_t block_terms() const { return whole_vectors(ceil_div(terms, term_blocks())); }
  // These return the floats of the transformed taps of a block, and the floats from one spot's taps
  // to the next's. There is room for one more term, so that spots do not compete for a few lines of
  // the cache.
  int64_t tap_floats(int64_t columns) const { return kSpots<F> * (block_terms() + 1) * columns; }
  int64_t spot_taps(const Panel& panel) const { return (block_terms() + 1) * panel.width(); }

  // A thread's buffers hold the transformed tiles and the products, in planes of one spot each. If
  // tensors are NCHW, they also hold the inputs of a band and one panel of its outputs. Last come
  // the taps, if tasks transform them.
  int64_t band_tiles() const { return bands.images * bands.band_rows * width; }
  // Returns the floats of one spot of a band's tiles, for the terms of one block.
  int64_t tile_block() const { return band_tiles() * block_terms(); }
  int64_t tile_plane() const { return tile_block() * term_blocks() + kLanes; }
  int64_t product_plane() const { return band_tiles() * panel_width() + kLanes; }
  Pixels<Real> in_buffer(Real* at) const { return vectors_buffer(at, terms, in.width, in_rows); }
  Pixels<Real> out_buffer(Real* at) const {
    return vectors_buffer(at, panel_width(), out.width, bands.band_rows * F::kOut);
  }
  int64_t in_floats() const {
    return in.layout == Layout::nhwc ? 0 : bands.images * in_buffer(nullptr).image;
  }
  int64_t out_floats() const {
    return in.layout == Layout::nhwc ? 0 : bands.images * out_buffer(nullptr).image;
  }
  int64_t task_taps() const { return taps_per_task ? tap_floats(panel_width()) : 0; }
  int64_t thread_floats() const {
    return kSpots<F> * (tile_plane() + product_plane()) + in_floats() + out_floats() + task_taps();
  }
  int64_t shared_floats() const { return taps_per_task ? 0 : groups * tap_floats(panels.width()); }
  int64_t workspace(int threads) const {
    return (shared_floats() + thread_floats() * threads) * static_cast<int64_t>(sizeof(Real));
  }
};

// How a pass reads the 3x3 taps from w: the strides of groups, columns and terms in floats, and
// whether the order of a kernel's taps is reversed.
struct Taps3x3 {
  const Real* w;
  int64_t group, column, term;
  bool reversed;
};

// Transforms the taps of some terms and some vectors of a panel. They are stored as (spot, term,
// column) at `to`.
template <class F>
void transform_taps(const Tiles<F>& tiles, const Taps3x3& taps, int64_t group, const Panel& panel,
                    Range vectors, Range terms, Real* to) {
  alignas(64) Real memory[kTermsTogether * 9 * kLanes];
  const int64_t spot = tiles.spot_taps(panel);
  const int64_t together = taps.term == 9 ? kTermsTogether : 1;  // many if they are adjacent in w
  for (int64_t vector = vectors.begin; vector < vectors.end; ++vector) {
    const ImageBlock block{taps.column, panel.lanes_of(vector)};
    const Real* from = taps.w + group * taps.group + (panel.first + vector * kLanes) * taps.column;
    Real* row = to + vector * kLanes;
    for (int64_t term = terms.begin; term < terms.end; term += together) {
      const int64_t n = std::min(together, terms.end - term);
      images_to_lanes(from + term * taps.term, block, 9 * n,
                      VectorCursor(memory, kLanes, 9 * n, 0));
      for (int64_t i = 0; i < n; ++i, row += panel.width()) {
        Vec g[3][3], t[F::kIn][F::kIn];
#pragma GCC unroll 9
        for (int tap = 0; tap < 9; ++tap) {
          const int64_t place = i * 9 + (taps.reversed ? 8 - tap : tap);
          g[tap / 3][tap % 3] = Vec::load(memory + place * kLanes);
        }
        transform_square<F::taps>(g, t);
        store_spots(t, row, spot);
      }
    }
  }
}

// Transforms the taps of all groups and panels, in parallel over the vectors of columns.
template <class F>
void transform_all_taps(const Problem& p, const Tiles<F>& tiles, const Taps3x3& taps, Real* to,
                        const Executor& executor) {
  const int64_t in_group = tiles.panels.vectors, count = tiles.groups * in_group;
  executor.run(count, task_grain(p, count), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / in_group, vector = i % in_group;
      const Panel panel = tiles.panels.holding(vector);
      const Range one = shifted({vector, vector + 1}, -panel.first / kLanes);
      transform_taps(tiles, taps, group, panel, one, {0, tiles.terms},
                     to + tiles.tap_floats(group * tiles.panels.width() + panel.first));
    }
  });
}

// One band of rows of tiles, with the thread's buffers for transformed tiles and products.
template <class F>
struct Band {
  const Tiles<F>& tiles;
  TileGrid some;
  Real *transformed, *products;

  // Marks the images whose pixels are unsafe, if `marks` is given.
  void transform_inputs(const ImagePixels& x, const Marks* marks, int64_t first_image) const {
    for (int64_t image = 0; marks != nullptr && image < some.images; ++image) {
      if (x.are_unsafe(image)) marks->set(first_image + image);
    }
    const int64_t width = tiles.block_terms();
    transform_tiles<F, F::inputs, F::kIn>(some, x, tiles.row_axis.offset, tiles.column_axis.offset,
                                          tiles.tile_plane(), [&](int64_t index, int64_t c) {
                                            return transformed + c / width * tiles.tile_block() +
                                                   index * width + c % width;
                                          });
  }

  // Computes the products of a block of terms with the panel's taps, for every spot. The first
  // block sets the products, and the others add to them.
  void multiply(const Panel& panel, int64_t block, const Real* taps) const {
    const int64_t width = tiles.block_terms();
    const int64_t parts = ceil_div(some.count(), tile_rows(panel.vectors()));
    MatmulTile t{};
    t.a_row = width;
    t.a_k = 1;
    t.b_k = panel.width();
    t.k = std::min(width, tiles.terms - block * width);
    t.inner = t.outer = 1;
    // Long sequences of products are allowed, because the transforms round more than they do.
    t.block = near_equal_block(t.k, kMostBlock);
    t.out_row = panel.width();
    t.lanes = kLanes;
    t.init = block == 0 ? Init::zero : Init::accumulate;
    for (int64_t spot = 0; spot < kSpots<F>; ++spot) {
      t.b = taps + spot * tiles.spot_taps(panel);
      for (int64_t part = 0; part < parts; ++part) {
        const Range rows = near_equal_part(some.count(), parts, part);
        t.a = transformed + spot * tiles.tile_plane() + block * tiles.tile_block() +
              rows.begin * width;
        t.out = products + spot * tiles.product_plane() + rows.begin * panel.width();
        matmul_of(rows.size(), panel.vectors())(t);
      }
    }
  }

  // Transforms the products of one tile and vector of channels and writes the outputs to y. Rows,
  // columns and lanes beyond the given numbers are not written. Returns a vector of zeros, or of
  // NaN in the lanes that have outputs which are not finite.
  Vec transform_output(const Real* from, const Vec& bias, const Epilogue* bounds, int64_t row_count,
                       int64_t column_count, int lanes, const Pixels<Real>& y) const {
    Vec m[F::kIn][F::kIn], t[F::kOut][F::kOut];
    load_spots(from, tiles.product_plane(), m);
    transform_square<F::outputs>(m, t);
    Vec lost = Vec::zero();
#pragma GCC unroll 4
    for (int i = 0; i < F::kOut; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < F::kOut; ++j) {
        if (i >= row_count || j >= column_count) continue;
        Vec sum = add(t[i][j], bias);
        lost = fma(sum, Vec::zero(), lost);
        if (bounds != nullptr) sum = bounds->bound(sum);
        Real* at = y.at + i * y.row + j * y.pixel;
        lanes == kLanes ? sum.store_unaligned(at) : sum.store_first(at, lanes);
      }
    }
    return lost;
  }

  // Transforms the products of a panel to outputs. `y` begins at the band's first image and first
  // row of outputs. Marks the images with outputs that are not finite.
  void transform_outputs(const Panel& panel, int last_lanes, const Real* bias,
                         const Epilogue* bounds, const Pixels<Real>& y, const Marks& marks,
                         int64_t first_image) const {
    some.for_each([&](int64_t image, int64_t row, int64_t column, int64_t index) {
      const int64_t first = row * F::kOut, v = column * F::kOut;
      Vec lost = Vec::zero();
      for (int64_t vector = 0; vector < panel.vectors(); ++vector) {
        const int lanes = vector == panel.vectors() - 1 ? last_lanes : kLanes;
        const Vec start = bias == nullptr
                              ? Vec::zero()
                              : Vec::load_first(bias + vector * kLanes, panel.lanes_of(vector));
        Pixels<Real> to = y;
        to.at += image * y.image + (first - some.rows.begin * F::kOut) * y.row + v * y.pixel +
                 vector * kLanes;
        const Vec some_lost =
            transform_output(products + index * panel.width() + vector * kLanes, start, bounds,
                             tiles.row_axis.out - first, tiles.column_axis.out - v, lanes, to);
        lost = add(lost, some_lost);
      }
      if (exceeds(lost, Vec::zero())) marks.set(first_image + image);
    });
  }
};

// Computes all outputs. `transformed_taps` are those of transform_all_taps(), or null if they are
// not ready.
template <class F>
void correlate(const Problem& p, const Tiles<F>& tiles, const Real* in, const Taps3x3& taps,
               const Real* transformed_taps, const Real* bias, const Epilogue& epilogue, Real* out,
               Real* memory, const Marks& marks, const Executor& executor) {
  const bool in_place = tiles.in.layout == Layout::nhwc;
  const Bands& bands = tiles.bands;
  if (!tiles.taps_per_task && transformed_taps == nullptr) {
    transform_all_taps(p, tiles, taps, memory, executor);
    transformed_taps = memory;
  }
  const int64_t tasks = bands.count() * tiles.groups * tiles.slices;
  executor.run(tasks, task_grain(p, tasks), [&](int64_t begin, int64_t end, int thread) {
    Real* transformed = memory + tiles.shared_floats() + thread * tiles.thread_floats();
    Real* products = transformed + kSpots<F> * tiles.tile_plane();
    Real* in_pixels = products + kSpots<F> * tiles.product_plane();
    Real* out_pixels = in_pixels + tiles.in_floats();
    Real* task_taps = out_pixels + tiles.out_floats();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task / tiles.slices % tiles.groups;
      const int64_t index = task / tiles.slices / tiles.groups;
      const Range slice = near_equal_part(tiles.panels.count, tiles.slices, task % tiles.slices);
      const Range images = bands.images_of(index), rows = bands.rows_of(index);
      const Range u = tiles.outputs(rows);
      const Band<F> band{tiles, {images.size(), rows, tiles.width}, transformed, products};
      band.transform_inputs({in,
                             tiles.in,
                             {images,
                              inputs_read(tiles.row_axis, u),
                              {0, tiles.in.width},
                              shifted({0, tiles.terms}, group * tiles.terms)},
                             tiles.in_buffer(in_pixels)},
                            slice.begin == 0 ? &marks : nullptr, images.begin);
      for (int64_t i = slice.begin; i < slice.end; ++i) {
        const Panel panel = tiles.panels.at(i);
        const int64_t channel = group * tiles.columns + panel.first;
        for (int64_t block = 0; block < tiles.term_blocks(); ++block) {
          const Real* panel_taps = task_taps;
          if (tiles.taps_per_task) {
            const int64_t first = block * tiles.block_terms();
            transform_taps(tiles, taps, group, panel, {0, panel.vectors()},
                           {first, std::min(tiles.terms, first + tiles.block_terms())}, task_taps);
          } else {
            panel_taps =
                transformed_taps + tiles.tap_floats(group * tiles.panels.width() + panel.first);
          }
          band.multiply(panel, block, panel_taps);
        }
        const Region outputs{images, u, {0, tiles.out.width}, {channel, channel + panel.columns}};
        const Pixels<Real> y =
            in_place ? pixels_of(out, tiles.out, outputs) : tiles.out_buffer(out_pixels);
        band.transform_outputs(panel, in_place ? panel.last_lanes() : kLanes,
                               bias == nullptr ? nullptr : bias + channel, epilogue.if_bounds(), y,
                               marks, images.begin);
        if (!in_place) store_pixels(out, tiles.out, outputs, y);
        finish_region(epilogue, out, tiles.out, outputs);
      }
    }
  });
}

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
