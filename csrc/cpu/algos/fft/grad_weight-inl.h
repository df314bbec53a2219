// The grad_weight pass of fft: computes gw from gy and x. Each tile of a unit adds the products of
// its spectra to sums in memory, one for each pair of planes. At the end of a chunk of the batch
// the sums are transformed to gw. If lanes are images, the sums of the lanes are added before that.
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
    return std::max(reduction.workspace(threads), direct.workspace(threads));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override;

 private:
  static int64_t pairs(const Setting& s) { return s.x.planes() * s.y.planes(); }
  // A thread's memory. `spectra` are of a vector of planes of w, and `taps` are rows of w.
  struct Memory {
    PlaneBuffers x, y, w;
    Real *x_values, *y_values, *work, *sums, *spectra, *taps;

    Memory(const Setting& s, Parts& parts)
        : x(s, s.x.planes(), s.size.rows.x_end(), parts),
          y(s, s.y.planes(), s.size.rows.y_end(), parts),
          w(tap_buffers(s, parts)),
          x_values(parts.take(s.x.planes() * s.height->points * kComplex)),
          y_values(parts.take(s.y.planes() * s.height->points * kComplex)),
          work(parts.take(kMostPoints * kComplex)),
          sums(parts.take(pairs(s) * s.spectrum_floats())),
          spectra(parts.take(s.x.channels ? 0 : s.spectrum_floats())),
          taps(parts.take(kBandRows * s.p.S * kLanes)) {}
  };
  static Reduction reduction_of(const Setting& s) {
    Parts parts;
    Memory(s, parts);
    return {s.p, s.x.units(), 0, parts.floats, fft_chunks(s.x.units(), s.x.slices())};
  }

  void add_products(const Operands& ops, int64_t unit, int64_t slice, int64_t tile,
                    const Memory& memory) const;
  void inverse_sums(int64_t slice, const Memory& memory, Real* gw) const;
  void inverse_planes(const Real* spectra, Range planes, const Memory& memory, Real* gw) const;
};

// Adds the products of the values of two columns, the second conjugated, to the sums.
inline void add_conjugate_products(const Real* x, const Real* gy, int64_t n, Real* sums) {
  for (int64_t i = 0; i < n; ++i, x += kComplex, gy += kComplex, sums += kComplex) {
    const Complex a = Complex::load(x), b = Complex::load(gy);
    Complex sum = Complex::load(sums);
    sum = {fma(a.im, b.im, fma(a.re, b.re, sum.re)), fnma(a.re, b.im, fma(a.im, b.re, sum.im))};
    sum.store(sums);
  }
}

void GradWeight::add_products(const Operands& ops, int64_t unit, int64_t slice, int64_t tile,
                              const Memory& memory) const {
  const Transform& height = *s.height;
  const auto transform = [&](const PlaneLanes& lanes, const PlaneBuffers& buffers,
                             const void* tensor, const FftPlaces& rows, const FftPlaces& columns) {
    transform_rows(
        s, buffers, rows, columns, memory.work,
        [&](Range band, const View<Real>& view, int64_t step) {
          lanes.load(tensor, unit, slice, band, columns.range, view, step);
        },
        [](int64_t, int64_t, Real*) {});
  };
  const FftPlaces x_rows = s.x_rows(tile), y_rows = s.y_rows(tile);
  transform(s.x, memory.x, ops.x, x_rows, s.x_columns(tile));
  transform(s.y, memory.y, ops.gy, y_rows, s.y_columns(tile));
  const Real *x_at[kMostPoints], *y_at[kMostPoints];
  memory.x.find_rows(x_rows, x_at);
  memory.y.find_rows(y_rows, y_at);
  const int x_part = height.part(x_rows.end()), y_part = height.part(y_rows.end());
  const int64_t values = height.points * kComplex;
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    for (int64_t c = 0; c < s.x.planes(); ++c) {
      height.outer[x_part](memory.x.column(x_at, c, frequency), memory.work);
      height.inner(memory.work, memory.x_values + c * values);
    }
    for (int64_t o = 0; o < s.y.planes(); ++o) {
      height.outer[y_part](memory.y.column(y_at, o, frequency), memory.work);
      height.inner(memory.work, memory.y_values + o * values);
      for (int64_t c = 0; c < s.x.planes(); ++c) {
        Real* sums = memory.sums + (o * s.x.planes() + c) * s.spectrum_floats();
        add_conjugate_products(memory.x_values + c * values, memory.y_values + o * values,
                               height.points, sums + frequency * values);
      }
    }
  }
}

// Transforms the spectra of up to kLanes planes of w to gw.
void GradWeight::inverse_planes(const Real* spectra, Range planes, const Memory& memory,
                                Real* gw) const {
  const Problem& p = s.p;
  const PlaneBuffers& buffers = memory.w;
  const FftPlaces rows = s.tap_rows(), columns = s.tap_columns();
  const int part = s.height->part(rows.end());
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    s.height->inner_inverse(spectra + frequency * s.height->points * kComplex, memory.work);
    s.height->outer_inverse[part](memory.work, buffers.column(0, frequency));
  }
  const Real factor = s.scale();
  const ImageShape shape{Layout::nchw, 1, p.R, p.S};
  const ImageBlock block{shape.size(), static_cast<int>(planes.size())};
  Real* taps = memory.taps;
  inverse_rows(s, buffers, rows, columns, memory.work, [&](Range band, const View<Real>& view) {
    for (int64_t i = 0; i < band.size() * p.S; ++i) {  // taps may wrap around in the cells
      const Real* cell = view.at + i / p.S * view.row + columns.at(i % p.S) * kLanes;
      times(factor, Vec::load(cell)).store(taps + i * kLanes);
    }
    store_columns(gw + planes.begin * shape.size(), block, shape, band, columns.range, {0, 1},
                  {taps, 0, p.S * kLanes}, kLanes);
  });
}

void GradWeight::inverse_sums(int64_t slice, const Memory& memory, Real* gw) const {
  if (s.x.channels) {
    const int64_t first = slice * kLanes;
    return inverse_planes(memory.sums, {first, first + s.x.count(0, slice)}, memory, gw);
  }
  const int64_t size = s.spectrum_size(), stride = s.spectrum_floats(), count = pairs(s);
  for (int64_t pair = 0; pair < count; pair += kLanes) {
    const int64_t n = std::min<int64_t>(kLanes, count - pair);
    Real* first = memory.sums + pair * stride;
    for (int64_t i = 0; i < n; ++i) sum_lanes(first + i * stride, size, first + i * stride);
    images_to_lanes(first, {stride, static_cast<int>(n)}, size,
                    VectorCursor(memory.spectra, kLanes, size, 0));
    const int64_t plane = slice * count + pair;
    inverse_planes(memory.spectra, {plane, plane + n}, memory, gw);
  }
}

void GradWeight::run(const Operands& ops, void* workspace, const Executor& executor) const {
  auto* gw = static_cast<Real*>(ops.out);
  reduce_chunks(s.p, reduction, s.x.slices(), workspace, gw, executor,
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
                  inverse_sums(slice, memory, partial);
                });
  if (!are_safe_results(gw, s.tap_planes() * s.p.R * s.p.S)) direct.run(ops, workspace, executor);
}

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
