// Two-dimensional spectra of the planes of a tile. Rows are transformed first, two rows of a plane
// at a time, and then the columns that are kept. Columns are transformed by the passes, since
// products follow while a column is in the cache.
//
// Two rows are never of two images, since an image must not depend on another.
#pragma once

#include "cpu/algos/direct-inl.h"
#include "cpu/algos/fft/lanes-inl.h"
#include "cpu/algos/fft/transforms-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

constexpr int kBandRows = 4;      // rows that are copied to lanes together; an even number
constexpr int kMostPoints = 128;  // of a transform

const Transform& transform_of(int64_t points) {
  return *std::find_if(std::begin(kTransforms), std::end(kTransforms),
                       [&](const Transform& transform) { return transform.points == points; });
}

// What the passes know of a problem.
struct Setting {
  const Problem p;
  const FftSize size;
  const Transform *width, *height;  // along a row and along a column
  const PlaneLanes x, y;

  explicit Setting(const Problem& p)
      : p(p),
        size(p),
        width(&transform_of(size.columns.points)),
        height(&transform_of(size.rows.points)),
        x{x_shape(p), fft_lanes_are_channels(p, kLanes), p.N, p.groups},
        y{y_shape(p), x.channels, p.N, p.groups} {}

  int64_t tiles() const { return size.rows.tiles * size.columns.tiles; }
  FftPlaces x_rows(int64_t tile) const { return size.rows.x(tile / size.columns.tiles); }
  FftPlaces y_rows(int64_t tile) const { return size.rows.y(tile / size.columns.tiles); }
  FftPlaces x_columns(int64_t tile) const { return size.columns.x(tile % size.columns.tiles); }
  FftPlaces y_columns(int64_t tile) const { return size.columns.y(tile % size.columns.tiles); }
  FftPlaces tap_rows() const { return size.rows.taps(); }
  FftPlaces tap_columns() const { return size.columns.taps(); }
  // How many places of rows and of columns the transforms of x or of y read or write.
  int64_t x_row_places() const { return height->reached(size.rows.x_end()); }
  int64_t y_row_places() const { return height->reached(size.rows.y_end()); }
  int64_t x_column_places() const { return width->reached(size.columns.x_end()); }
  int64_t y_column_places() const { return width->reached(size.columns.y_end()); }

  // The numbers of a spectrum, and the floats of a vector of spectra.
  int64_t spectrum_size() const { return width->kept() * height->points * 2; }
  int64_t spectrum_floats() const { return spectrum_size() * kLanes; }
  // The factor by which results must be multiplied. Transforms and their inverses multiply by the
  // number of points, and two rows at a time by 2.
  Real scale() const {
    return Real(1) / Real(static_cast<int>(4 * width->points * height->points));
  }
  // The planes of w: as many as vectors, each with kLanes of them.
  int64_t tap_planes() const { return p.O * p.Cg; }
  int64_t tap_vectors() const { return ceil_div(tap_planes(), kLanes); }
  ImageBlock tap_block(int64_t vector) const {
    const int64_t left = tap_planes() - vector * kLanes;
    return {p.R * p.S, static_cast<int>(std::min<int64_t>(kLanes, left))};
  }
};

// Hands out parts of a buffer one after the other. Without a buffer it only counts their floats.
struct Parts {
  Real* buffer = nullptr;
  int64_t floats = 0;

  Real* take(int64_t count) {
    Real* part = buffer == nullptr ? nullptr : buffer + floats;
    floats += count;
    return part;
  }
};

// The buffers of a thread for some planes of a tile. `cells` are the rows of a band: (plane, row,
// place of the column) vectors. `half` has the spectra of rows: (place of the row, plane,
// frequency) complex numbers. Behind them there is a row that is written in the place of one that
// is missing.
struct PlaneBuffers {
  int64_t planes, kept, rows, columns;  // rows and columns: places
  Real *cells, *half;

  // The spectra take the place of those in the buffers `replaced`, if these are given.
  PlaneBuffers(const Setting& s, int64_t planes, int64_t rows, int64_t columns, Parts& memory,
               const PlaneBuffers* replaced = nullptr)
      : planes(planes),
        kept(s.width->kept()),
        rows(rows),
        columns(columns),
        cells(memory.take(cell_floats())),
        half(replaced != nullptr ? replaced->half : memory.take((rows + 1) * pitch())) {}
  int64_t row_floats() const { return columns * kLanes; }
  int64_t plane_floats() const { return kBandRows * row_floats(); }
  int64_t cell_floats() const { return planes * plane_floats(); }
  // An odd number of complex numbers keeps columns from competing for a few lines of the cache.
  int64_t pitch() const { return ((planes * kept) | 1) * kComplex; }

  // The cells from a place of the columns on.
  View<Real> cells_from(int64_t place) const {
    return {cells + place * kLanes, plane_floats(), row_floats()};
  }
  // Two rows of cells, as a complex sequence.
  Sequence two_rows(int64_t plane, int64_t row) const {
    return {cells + plane * plane_floats() + row * row_floats(), kLanes, row_floats()};
  }
  Real* row(int64_t place, int64_t plane) const {
    return half + place * pitch() + plane * kept * kComplex;
  }
  Real* spare_row() const { return row(rows, 0); }
  Sequence column(int64_t plane, int64_t frequency) const {
    return {row(0, plane) + frequency * kComplex, pitch(), kLanes};
  }
};

// Sets the spectra to zero at those of the first `count` places that have no row.
inline void set_missing_rows_zero(const PlaneBuffers& buffers, const FftPlaces& rows,
                                  int64_t count) {
  bool has_row[kMostPoints] = {};
  for (int64_t i = rows.range.begin; i < rows.range.end; ++i) has_row[rows.at(i)] = true;
  for (int64_t place = 0; place < count; ++place) {
    if (!has_row[place]) set_zero(buffers.row(place, 0), buffers.pitch());
  }
}

// Transforms the rows of all planes. load(rows) must copy rows of the tensor to the cells, at the
// places of their columns. The cells at other places must be zero.
template <class Load>
void transform_rows(const Setting& s, const PlaneBuffers& to, const FftPlaces& rows,
                    const FftPlaces& columns, Real* work, const Load& load) {
  const int part = s.width->part(columns.end());
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    load(band);
    for (int64_t plane = 0; plane < to.planes; ++plane) {
      for (int64_t row = band.begin; row < band.end; row += 2) {
        const Sequence cells = to.two_rows(plane, row - begin);
        const bool is_pair = row + 1 < band.end;
        if (!is_pair) set_zero(cells.at + cells.imaginary, to.row_floats());
        s.width->begin(part, cells, work);
        s.width->separate(work, to.row(rows.at(row), plane),
                          is_pair ? to.row(rows.at(row + 1), plane) : to.spare_row());
      }
    }
  }
  set_missing_rows_zero(to, rows, s.height->reached(rows.end()));
}

// Transforms the rows of all planes back. store(rows) must copy rows from the cells.
template <class Store>
void inverse_rows(const Setting& s, const PlaneBuffers& from, const FftPlaces& rows,
                  const FftPlaces& columns, Real* work, const Store& store) {
  const int part = s.width->part(columns.end());
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    for (int64_t plane = 0; plane < from.planes; ++plane) {
      for (int64_t row = band.begin; row < band.end; row += 2) {
        const int64_t second = std::min(row + 1, band.end - 1);  // of an odd number, any other
        s.width->join(from.row(rows.at(row), plane), from.row(rows.at(second), plane), work);
        s.width->complete_inverse(part, work, from.two_rows(plane, row - begin));
      }
    }
    store(band);
  }
}

// The buffers of a thread that computes the spectra of taps or, for grad_weight, taps from spectra.
// `taps` are some rows of w.
struct TapBuffers {
  PlaneBuffers planes;
  Real* taps;

  TapBuffers(const Setting& s, Parts& memory)
      : planes(s, 1, s.height->points, s.width->points, memory),
        taps(memory.take(kBandRows * s.p.S * kLanes)) {}
};

// Computes the spectra of one vector of the planes of w, multiplied by the scale of the transforms.
// Returns the energies of the planes.
inline Vec transform_taps(const Setting& s, const Real* w, int64_t vector,
                          const TapBuffers& buffers, Real* work, Real* spectra) {
  const Problem& p = s.p;
  const PlaneBuffers& planes = buffers.planes;
  const FftPlaces rows = s.tap_rows(), columns = s.tap_columns();
  const ImageShape shape{Layout::nchw, 1, p.R, p.S};
  const Real scale = s.scale();
  Vec energy = Vec::zero();
  set_zero(planes.cells, planes.cell_floats());
  transform_rows(s, planes, rows, columns, work, [&](Range band) {
    load_columns(w + vector * kLanes * shape.size(), s.tap_block(vector), shape, band,
                 columns.range, {0, 1}, {buffers.taps, 0, p.S * kLanes}, kLanes);
    for (int64_t i = 0; i < band.size() * p.S; ++i) {
      const Vec tap = Vec::load(buffers.taps + i * kLanes);
      energy = fma(tap, tap, energy);
      times(scale, tap)
          .store(planes.cells_from(columns.at(i % p.S)).at + i / p.S * planes.row_floats());
    }
  });
  const int part = s.height->part(rows.end());
  for (int64_t frequency = 0; frequency < planes.kept; ++frequency) {
    s.height->begin(part, planes.column(0, frequency), work);
    s.height->inner(work, spectra + frequency * s.height->points * kComplex);
  }
  return energy;
}

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
