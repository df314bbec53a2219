// The grad_weight pass of winograd: computes gw from gy and x. Tiles of x and of gy are
// transformed. For each spot, a matrix product (channels x tiles) times (tiles x output channels)
// sums over the tiles. At the end of a chunk of the batch the sums are transformed to gw. If some
// are not finite, the direct sum computes all of gw.
#pragma once

#include "cpu/algos/winograd/squares-inl.h"
#include "cpu/algos/winograd/transforms-inl.h"
#include "cpu/blocking/bands-inl.h"
#include "cpu/blocking/panels-inl.h"
#include "cpu/blocking/reduction-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/matmul-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

constexpr int64_t kSliceChannels = 64;    // channels of x and of gy whose sums fit the cache
constexpr int64_t kGradWeightTiles = 64;  // target for the tiles of a band
constexpr int64_t kGradWeightTasks = 4;   // the batch is cut until there are so many tasks

// The tasks of the pass. A task sums the products of some bands of rows of tiles for one slice of
// gw.
template <class F>
struct WeightTasks : WeightSlices {
  int64_t tiles_in_row;
  Bands bands;
  int64_t x_rows;  // the most rows of x in an image that a band reads

  explicit WeightTasks(const Problem& p)
      : WeightSlices(p, std::max<int64_t>(1, kSliceChannels / (kPanelVectors * kLanes)),
                     [](int64_t) { return kSliceChannels; }),
        tiles_in_row(ceil_div(p.OW(), F::kOut)),
        bands(p.N, ceil_div(p.OH(), F::kOut), std::max<int64_t>(1, kGradWeightTiles / tiles_in_row),
              1, 1),
        x_rows(std::min(p.H, bands.band_rows * F::kOut + 2)) {}

  Range columns_of(Range some) const {
    const Panel last = panels.at(some.end - 1);
    return {panels.at(some.begin).first, last.first + last.columns};
  }

  // A thread's buffers hold the sums and the transformed tiles of x and of gy, in planes of one
  // spot each. If tensors are NCHW, they also hold the pixels of a band, of x or gy at a time.
  int64_t tiles() const { return bands.images * bands.band_rows * tiles_in_row; }
  int64_t sum_plane() const { return channels * width + kLanes; }
  int64_t x_plane() const { return tiles() * whole_vectors(channels) + kLanes; }
  int64_t gy_plane() const { return tiles() * width + kLanes; }
  Pixels<Real> x_buffer(const Problem& p, Real* at) const {
    return vectors_buffer(at, channels, p.W, x_rows);
  }
  Pixels<Real> gy_buffer(const Problem& p, Real* at) const {
    return vectors_buffer(at, width, p.OW(), std::min(p.OH(), bands.band_rows * F::kOut));
  }
  int64_t pixel_floats(const Problem& p) const {
    if (p.layout == Layout::nhwc) return 0;
    return bands.images * std::max(x_buffer(p, nullptr).image, gy_buffer(p, nullptr).image);
  }
  Reduction reduction(const Problem& p) const {
    const int64_t floats = kSpots<F> * (sum_plane() + x_plane() + gy_plane()) + pixel_floats(p);
    return {p, bands.count(), 0, floats, ceil_div(kGradWeightTasks, count(p))};
  }
};

// One slice of gw, with the thread's buffers.
template <class F>
struct GradWeightSlice {
  const Problem& p;
  const WeightTasks<F>& tasks;
  int64_t group;
  Range panels, channels;  // panels of gy's channels, and channels of x, in the group
  Real *sums, *x, *gy, *pixels;

  void add_band(const Operands& ops, int64_t index, Init init) const {
    const Range images = tasks.bands.images_of(index), rows = tasks.bands.rows_of(index);
    const Range u{rows.begin * F::kOut, std::min(p.OH(), rows.end * F::kOut)};
    const Axis row_axis = forward_rows(p), column_axis = forward_columns(p);
    const Region inputs{
        images, inputs_read(row_axis, u), {0, p.W}, shifted(channels, group * p.Cg)};
    const Region outputs{images, u, {0, p.OW()}, shifted(tasks.columns_of(panels), group * p.Og())};
    const TileGrid some{images.size(), rows, tasks.tiles_in_row};
    transform_tiles<F, F::inputs, F::kIn>(
        some, {static_cast<const Real*>(ops.x), x_shape(p), inputs, tasks.x_buffer(p, pixels)},
        row_axis.offset, column_axis.offset, tasks.x_plane(),
        [&](int64_t tile, int64_t c) { return x + tile * x_row() + c; });
    transform_tiles<F, F::grad_outputs, F::kOut>(
        some, {static_cast<const Real*>(ops.gy), y_shape(p), outputs, tasks.gy_buffer(p, pixels)},
        0, 0, tasks.gy_plane(), [&](int64_t tile, int64_t o) { return gy + tile * gy_row() + o; });
    multiply(some.count(), init);
  }
  // These return the floats of one spot of a tile of x and of gy: its channels, padded.
  int64_t x_row() const { return whole_vectors(channels.size()); }
  int64_t gy_row() const { return whole_vectors(tasks.columns_of(panels).size()); }

  void multiply(int64_t tiles, Init init) const {
    const int64_t width = gy_row(), n = channels.size();
    MatmulTile t{};
    t.a_row = 1;
    t.a_k = x_row();
    t.b_k = width;
    t.k = tiles;
    t.inner = t.outer = 1;
    t.block = near_equal_block(tiles, kMostBlock);
    t.out_row = width;
    t.lanes = kLanes;
    t.init = init;
    for (int64_t spot = 0; spot < kSpots<F>; ++spot) {
      for (int64_t i = panels.begin; i < panels.end; ++i) {
        const Panel panel = tasks.panels.at(i);
        const int64_t column = panel.first - tasks.panels.at(panels.begin).first;
        const int64_t parts = ceil_div(n, tile_rows(static_cast<int>(panel.vectors())));
        t.b = gy + spot * tasks.gy_plane() + column;
        for (int64_t part = 0; part < parts; ++part) {
          const Range c = near_equal_part(n, parts, part);
          t.a = x + spot * tasks.x_plane() + c.begin;
          t.out = sums + spot * tasks.sum_plane() + c.begin * width + column;
          matmul_of(c.size(), panel.vectors())(t);
        }
      }
    }
  }

  // Transforms the sums to gw. Returns whether all results are finite.
  bool store(Real* gw) const {
    const Range columns = tasks.columns_of(panels);
    const int64_t width = gy_row();
    alignas(64) Real memory[kTermsTogether * 9 * kLanes];
    Vec lost = Vec::zero();
    for (int64_t c = 0; c < channels.size(); c += kTermsTogether) {
      const int64_t n = std::min(kTermsTogether, channels.size() - c);
      for (int64_t o = 0; o < columns.size(); o += kLanes) {
        for (int64_t i = 0; i < n; ++i) {
          Vec m[F::kIn][F::kIn], taps[3][3];
          load_spots(sums + (c + i) * width + o, tasks.sum_plane(), m);
          transform_square<F::grad_taps>(m, taps);
          store_spots(taps, memory + i * 9 * kLanes, kLanes);
#pragma GCC unroll 9
          for (int tap = 0; tap < 9; ++tap) lost = fma(taps[tap / 3][tap % 3], Vec::zero(), lost);
        }
        const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, columns.size() - o));
        const int64_t channel = group * p.Og() + columns.begin + o;
        lanes_to_images(gw + (channel * p.Cg + channels.begin + c) * 9, {p.Cg * 9, lanes}, 9 * n,
                        VectorCursor(memory, kLanes, 9 * n, 0));
      }
    }
    return !exceeds(lost, Vec::zero());
  }
};

template <class F>
struct GradWeight final : Plan, WeightParts<WeightTasks<F>> {
  using Parts = WeightParts<WeightTasks<F>>;
  using Parts::p, Parts::tasks, Parts::reduction;
  const DirectSum direct;  // computes results that are not finite

  explicit GradWeight(const Problem& problem) : Parts(problem), direct(problem) {}
  bool works() const { return direct.works(); }
  int64_t workspace(int threads) const override {
    return std::max(reduction.workspace(threads), direct.workspace(threads));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;
};

template <class F>
void GradWeight<F>::run(const Operands& ops, void* workspace, const Executor& executor) const {
  uint8_t is_lost = 0;
  const Marks lost{&is_lost};
  reduce_chunks(p, reduction, tasks.count(p), workspace, static_cast<Real*>(ops.out), executor,
                [&](int64_t index, Range units, Real* memory, Real* partial) {
                  Real* x = memory + kSpots<F> * tasks.sum_plane();
                  Real* gy = x + kSpots<F> * tasks.x_plane();
                  const GradWeightSlice<F> slice{p,
                                                 tasks,
                                                 tasks.group_of(index),
                                                 tasks.panels_of(index),
                                                 tasks.channels_of(p, index),
                                                 memory,
                                                 x,
                                                 gy,
                                                 gy + kSpots<F> * tasks.gy_plane()};
                  for (int64_t unit = units.begin; unit < units.end; ++unit) {
                    slice.add_band(ops, unit, unit == units.begin ? Init::zero : Init::accumulate);
                  }
                  if (!slice.store(partial)) lost.set(0);
                });
  if (lost.is_set(0)) direct.run(ops, workspace, executor);
}

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
