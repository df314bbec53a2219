// The grad_weight pass of fft: computes gw from gy and x. Each tile of a unit adds the products of
// its spectra to sums in memory, one for each pair of planes. If lanes are channels, the sums are
// transformed to gw at the end of each chunk of the batch. If lanes are images, the lanes and then
// the chunks are added first, and gw is made from their spectra.
#pragma once

#include "cpu/algos/fft/spectra-inl.h"
#include "cpu/blocking/reduction-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

struct GradWeight final : Plan {
  const Setting s;
  const Reduction reduction;
  const DirectSum direct;  // where the result is not finite

  explicit GradWeight(const Problem& p) : s(p), reduction(reduction_of(s)), direct(p) {}
  bool works() const { return direct.works(); }
  int64_t workspace(int threads) const override {
    return std::max(reduction.workspace(threads) + whole_lines(spectra_floats(s)),
                    direct.workspace(threads));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;

 private:
  static int64_t pairs(const Setting& s) { return s.x.planes() * s.y.planes(); }
  // Returns the floats of the spectra of all planes of w, which there are if lanes are images. The
  // partial sums of the chunks are as large, so that many planes have fewer chunks.
  static int64_t spectra_floats(const Setting& s) {
    return s.x.channels ? 0 : s.tap_planes() * s.spectrum_size();
  }
  // A thread's memory.
  struct Memory {
    PlaneBuffers x, y;
    TapBuffers w;
    Real *x_values, *work, *sums;

    Memory(const Setting& s, Parts& parts)
        : x(s, s.x.planes(), s.x_row_places(), s.x_column_places(), parts),
          y(s, s.y.planes(), s.y_row_places(), s.y_column_places(), parts),
          w(s, parts),
          x_values(parts.take(s.x.planes() * s.height->points * kComplex)),
          work(parts.take(kMostPoints * kComplex)),
          sums(parts.take(pairs(s) * s.spectrum_floats())) {}
  };
  static Reduction reduction_of(const Setting& s) {
    Parts parts;
    Memory(s, parts);
    const int64_t size = s.x.channels ? s.tap_planes() * s.p.R * s.p.S : spectra_floats(s);
    return {size, s.x.units(), 0, parts.floats, fft_chunks(s.x.units(), s.x.slices())};
  }

  void add_products(const Operands& ops, int64_t unit, int64_t slice, int64_t tile,
                    const Memory& memory) const;
  void add_lanes(int64_t slice, const Memory& memory, Real* spectra) const;
  void inverse_planes(const Real* spectra, Range planes, const Memory& memory, Real* gw) const;
};

void GradWeight::add_products(const Operands& ops, int64_t unit, int64_t slice, int64_t tile,
                              const Memory& memory) const {
  const Transform& height = *s.height;
  const auto transform = [&](const PlaneLanes& lanes, const PlaneBuffers& buffers,
                             const void* tensor, const FftPlaces& rows, const FftPlaces& columns) {
    transform_rows(s, buffers, rows, columns, memory.work, [&](Range band) {
      lanes.load(tensor, unit, slice, band, columns.range, buffers.cells_from(columns.first),
                 columns.step * kLanes);
    });
  };
  const FftPlaces x_rows = s.x_rows(tile), y_rows = s.y_rows(tile);
  transform(s.x, memory.x, ops.x, x_rows, s.x_columns(tile));
  transform(s.y, memory.y, ops.gy, y_rows, s.y_columns(tile));
  const int x_part = height.part(x_rows.end()), y_part = height.part(y_rows.end());
  const int64_t values = height.points * kComplex;
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    for (int64_t c = 0; c < s.x.planes(); ++c) {
      height.begin(x_part, memory.x.column(c, frequency), memory.work);
      height.inner(memory.work, memory.x_values + c * values);
    }
    for (int64_t o = 0; o < s.y.planes(); ++o) {
      height.begin(y_part, memory.y.column(o, frequency), memory.work);
      // Completing a transform again for each c takes less time than storing and loading it.
      for (int64_t c = 0; c < s.x.planes(); ++c) {
        Real* sums = memory.sums + (o * s.x.planes() + c) * s.spectrum_floats();
        height.add_products(memory.work, memory.x_values + c * values, sums + frequency * values);
      }
    }
  }
}

// Transforms the spectra of up to kLanes planes of w to gw.
void GradWeight::inverse_planes(const Real* spectra, Range planes, const Memory& memory,
                                Real* gw) const {
  const Problem& p = s.p;
  const PlaneBuffers& buffers = memory.w.planes;
  const FftPlaces rows = s.tap_rows(), columns = s.tap_columns();
  const int part = s.height->part(rows.end());
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    s.height->inner_inverse(spectra + frequency * s.height->points * kComplex, memory.work);
    s.height->complete_inverse(part, memory.work, buffers.column(0, frequency));
  }
  const Real factor = s.scale();
  const ImageShape shape{Layout::nchw, 1, p.R, p.S};
  const ImageBlock block{shape.size(), static_cast<int>(planes.size())};
  Real* taps = memory.w.taps;
  inverse_rows(s, buffers, rows, columns, memory.work, [&](Range band) {
    for (int64_t i = 0; i < band.size() * p.S; ++i) {  // taps may wrap around in the cells
      const View<Real> cells = buffers.cells_from(columns.at(i % p.S));
      times(factor, Vec::load(cells.at + i / p.S * cells.row)).store(taps + i * kLanes);
    }
    store_columns(gw + planes.begin * shape.size(), block, shape, band, columns.range, {0, 1},
                  {taps, 0, p.S * kLanes}, kLanes);
  });
}

// Writes the sums of the lanes to a slice's part of the spectra of all planes of w.
void GradWeight::add_lanes(int64_t slice, const Memory& memory, Real* spectra) const {
  const int64_t size = s.spectrum_size(), count = pairs(s);
  for (int64_t i = 0; i < count; ++i) {
    sum_lanes(memory.sums + i * s.spectrum_floats(), size, spectra + (slice * count + i) * size);
  }
}

void GradWeight::run(const Operands& ops, void* workspace, const Executor& executor) const {
  auto* gw = static_cast<Real*>(ops.out);
  auto* spectra = reinterpret_cast<Real*>(static_cast<char*>(workspace) +
                                          reduction.workspace(executor.threads()));
  reduce_chunks(s.p, reduction, s.x.slices(), workspace, s.x.channels ? gw : spectra, executor,
                [&](int64_t slice, Range units, Real* thread, Real* partial) {
                  Parts parts{thread};
                  const Memory memory(s, parts);
                  set_zero(memory.sums, pairs(s) * s.spectrum_floats());
                  for (int64_t tile = 0; tile < s.tiles(); ++tile) {
                    // Cells beside the columns of a tile stay zero for all units.
                    set_zero(memory.x.cells, memory.x.cell_floats());
                    set_zero(memory.y.cells, memory.y.cell_floats());
                    for (int64_t unit = units.begin; unit < units.end; ++unit) {
                      add_products(ops, unit, slice, tile, memory);
                    }
                  }
                  if (s.x.channels) {
                    const int64_t first = slice * kLanes;
                    const Range planes{first, first + s.x.count(0, slice)};
                    inverse_planes(memory.sums, planes, memory, partial);
                  } else {
                    add_lanes(slice, memory, partial);
                  }
                });
  if (!s.x.channels) {
    executor.run(s.tap_vectors(), 1, [&](int64_t begin, int64_t end, int thread) {
      Parts parts{reduction.thread_memory(workspace, thread)};
      const Memory memory(s, parts);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kLanes, size = s.spectrum_size();
        const ImageBlock block{size, s.tap_block(i).count};
        images_to_lanes(spectra + first * size, block, size,
                        VectorCursor(memory.sums, kLanes, size, 0));
        inverse_planes(memory.sums, {first, first + block.count}, memory, gw);
      }
    });
  }
  if (!are_safe_results(gw, s.tap_planes() * s.p.R * s.p.S)) direct.run(ops, workspace, executor);
}

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
