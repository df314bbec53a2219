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
// column) vectors. `half` has the spectra of rows: (place of the row, plane, frequency) complex
// numbers. Behind them there is a row of zeros, which stands for the places without a row.
struct PlaneBuffers {
  int64_t planes, points, kept, rows;  // points: of the transform of a row; rows: places of rows
  Real *cells, *half;

  // The spectra take the place of those in the buffers `replaced`, if these are given.
  PlaneBuffers(const Setting& s, int64_t planes, int64_t rows, Parts& memory,
               const PlaneBuffers* replaced = nullptr)
      : planes(planes),
        points(s.width->points),
        kept(s.width->kept()),
        rows(rows),
        cells(memory.take(cell_floats())),
        half(replaced != nullptr ? replaced->half : memory.take((rows + 1) * pitch())) {}
  int64_t row_floats() const { return points * kLanes; }
  int64_t plane_floats() const { return kBandRows * row_floats(); }
  int64_t cell_floats() const { return planes * plane_floats(); }
  // An odd number of complex numbers keeps columns from competing for a few lines of the cache.
  int64_t pitch() const { return ((planes * kept) | 1) * kComplex; }

  Real* zero_row() const { return half + rows * pitch(); }
  Real* row(int64_t place, int64_t plane) const {
    return half + place * pitch() + plane * kept * kComplex;
  }
  // A column of a plane that is written.
  Outputs column(int64_t plane, int64_t frequency) const {
    return {row(0, plane) + frequency * kComplex, pitch(), kLanes};
  }
  // Sets at[e] to the row at place e of the columns, or to the row of zeros.
  void find_rows(const FftPlaces& places, const Real** at) const {
    std::fill(at, at + places.points, zero_row());
    for (int64_t i = places.range.begin; i < places.range.end; ++i) {
      at[places.at(i)] = row(places.at(i), 0);
    }
  }
  // A column of a plane that is read, where `at` is from find_rows().
  Inputs column(const Real* const* at, int64_t plane, int64_t frequency) const {
    return {at, (plane * kept + frequency) * kComplex, kLanes};
  }
};

// Transforms the rows of all planes. load(rows, view, step) must copy rows of the tensor to the
// view, with neighbouring columns `step` floats apart. prepare(plane, rows, at) is then called for
// each plane, whose vectors begin at `at`. Cells behind the columns must be zero.
template <class Load, class Prepare>
void transform_rows(const Setting& s, const PlaneBuffers& to, const FftPlaces& rows,
                    const FftPlaces& columns, Real* work, const Load& load,
                    const Prepare& prepare) {
  const Real* cells[kMostPoints];  // the cell of each place; the first column is in the first cell
  for (int64_t e = 0; e < to.points; ++e) {
    const int64_t place = columns.first + e;
    cells[place < to.points ? place : place - to.points] = to.cells + e * kLanes;
  }
  const int part = s.width->part(columns.end());
  const int64_t pitch = to.row_floats();
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    load(band, View<Real>{to.cells, to.plane_floats(), pitch}, columns.step * kLanes);
    for (int64_t plane = 0; plane < to.planes; ++plane) {
      Real* at = to.cells + plane * to.plane_floats();
      prepare(plane, band.size(), at);
      if (band.size() % 2 != 0) set_zero(at + band.size() * pitch, pitch);
      for (int64_t row = band.begin; row < band.end; row += 2) {
        s.width->outer[part]({cells, at - to.cells + (row - begin) * pitch, pitch}, work);
        s.width->separate(work, to.row(rows.at(row), plane),
                          row + 1 < band.end ? to.row(rows.at(row + 1), plane) : to.zero_row());
      }
    }
  }
  set_zero(to.zero_row(), to.pitch());  // which the last row of an odd number has written
}

// Transforms the rows of all planes back. store(rows, cells, pitch) must copy rows from the cells,
// where the first column is at place 0 and rows are `pitch` floats apart.
template <class Store>
void inverse_rows(const Setting& s, const PlaneBuffers& from, const FftPlaces& rows,
                  const FftPlaces& columns, Real* work, const Store& store) {
  const int part = s.width->part(columns.end());
  const int64_t pitch = from.row_floats();
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    for (int64_t plane = 0; plane < from.planes; ++plane) {
      Real* at = from.cells + plane * from.plane_floats();
      for (int64_t row = band.begin; row < band.end; row += 2, at += 2 * pitch) {
        const int64_t second = std::min(row + 1, band.end - 1);  // of an odd number, any other
        s.width->join(from.row(rows.at(row), plane), from.row(rows.at(second), plane), work);
        s.width->outer_inverse[part](work, {at, kLanes, pitch});
      }
    }
    store(band, View<Real>{from.cells, from.plane_floats(), pitch});
  }
}

// Computes the spectra of one vector of the planes of w, multiplied by the scale of the transforms.
// Returns the energies of the planes.
inline Vec transform_taps(const Setting& s, const Real* w, int64_t vector,
                          const PlaneBuffers& buffers, Real* work, Real* spectra) {
  const Problem& p = s.p;
  const FftPlaces rows = s.tap_rows(), columns = s.tap_columns();
  const ImageShape shape{Layout::nchw, 1, p.R, p.S};
  const ImageBlock block = s.tap_block(vector);
  const Real scale = s.scale();
  Vec energy = Vec::zero();
  set_zero(buffers.cells, buffers.cell_floats());
  transform_rows(
      s, buffers, rows, columns, work,
      [&](Range band, const View<Real>& view, int64_t step) {
        load_columns(w + vector * kLanes * shape.size(), block, shape, band, columns.range, {0, 1},
                     view, step);
      },
      [&](int64_t, int64_t count, Real* at) {
        for (int64_t i = 0; i < count * p.S; ++i) {
          Real* tap = at + i / p.S * buffers.row_floats() + i % p.S * columns.step * kLanes;
          energy = fma(Vec::load(tap), Vec::load(tap), energy);
          times(scale, Vec::load(tap)).store(tap);
        }
      });
  const Real* at[kMostPoints];
  buffers.find_rows(rows, at);
  const int part = s.height->part(rows.end());
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    s.height->outer[part](buffers.column(at, 0, frequency), work);
    s.height->inner(work, spectra + frequency * s.height->points * kComplex);
  }
  return energy;
}

// The buffers of transform_taps().
inline PlaneBuffers tap_buffers(const Setting& s, Parts& memory) {
  return {s, 1, s.height->points, memory};
}

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
