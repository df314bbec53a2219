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

// Returns whether lanes should be channels rather than images.
bool lanes_are_channels(const Problem& p) {
  const auto used = [](int64_t n) { return 1.0 * n / (ceil_div(n, kLanes) * kLanes); };
  return p.Cg == 1 && p.Og() == 1 && used(p.C) >= used(p.N);
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
        x{x_shape(p), lanes_are_channels(p), p.N, p.groups},
        y{y_shape(p), x.channels, p.N, p.groups} {}

  int64_t tiles() const { return size.rows.tiles * size.columns.tiles; }
  FftPlaces x_rows(int64_t tile) const { return size.rows.x(tile / size.columns.tiles); }
  FftPlaces y_rows(int64_t tile) const { return size.rows.y(tile / size.columns.tiles); }
  FftPlaces x_columns(int64_t tile) const { return size.columns.x(tile % size.columns.tiles); }
  FftPlaces y_columns(int64_t tile) const { return size.columns.y(tile % size.columns.tiles); }
  FftPlaces tap_rows() const { return {{0, p.R}, 0, p.dilation_h}; }
  FftPlaces tap_columns() const { return {{0, p.S}, 0, p.dilation_w}; }

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
};

// The buffers of a thread for some planes of a tile. `cells` are the rows of a band: (plane, row,
// column) vectors. `half` has the spectra of rows: (row, plane, frequency) complex numbers. Behind
// them there is one more row, which stands for the rows without numbers.
struct PlaneBuffers {
  int64_t planes, points, rows;  // points: of the transform of rows
  Real *cells, *half;

  PlaneBuffers(const Setting& s, int64_t planes, int64_t rows, Real* memory)
      : planes(planes), points(s.width->points), rows(rows), cells(memory) {
    half = memory + cell_floats();
  }
  int64_t cell_floats() const { return planes * kBandRows * points * kLanes; }
  // An odd number of complex numbers keeps columns from competing for a few lines of the cache.
  int64_t pitch() const { return ((planes * (points / 2 + 1)) | 1) * kComplex; }
  int64_t floats() const { return cell_floats() + (rows + 1) * pitch(); }
  Real* spare_row() const { return half + rows * pitch(); }
  View<Real> view(const FftPlaces& columns) const {
    return {cells + columns.first * kLanes, kBandRows * points * kLanes, points * kLanes};
  }
  Real* row(int64_t i, int64_t plane) const {
    return half + i * pitch() + plane * (points / 2 + 1) * kComplex;
  }
  // Returns how the transform of rows finds the cells of a row. The next row is the imaginary part.
  Sequence cells_of(int64_t plane, int64_t row, Real** at) const {
    for (int64_t e = 0; e < points; ++e) at[e] = cells + e * kLanes;
    return {at, (plane * kBandRows + row) * points * kLanes, points * kLanes};
  }
  // Sets at[e] to the row at place e of the columns, or to the spare row.
  void place_rows(const FftPlaces& places, int64_t points_of_column, Real** at) const {
    std::fill(at, at + points_of_column, spare_row());
    for (int64_t i = 0; i < places.range.size(); ++i) at[places.first + i * places.step] = row(i, 0);
  }
  // Returns a column of a plane, where `at` is from place_rows().
  Sequence column(Real* const* at, int64_t plane, int64_t frequency) const {
    return {at, (plane * (points / 2 + 1) + frequency) * kComplex, kLanes};
  }
};

// Transforms the rows of all planes. load(rows, view) must copy rows of the tensor to the view, and
// see(plane, row, at) is called for each row, whose vectors begin at `at`. Cells beside the columns
// must be zero.
template <class Load, class See>
void transform_rows(const Setting& s, const PlaneBuffers& to, const FftPlaces& rows,
                    const FftPlaces& columns, Real* work, const Load& load, const See& see) {
  Real* cells[kMostPoints];
  const Sequence first = to.cells_of(0, 0, cells);
  const View<Real> view = to.view(columns);
  const int part = s.width->part(columns.end());
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    load(band, view);
    for (int64_t plane = 0; plane < to.planes; ++plane) {
      for (int64_t row = 0; row < band.size(); ++row) {
        see(plane, view.at + plane * view.plane + row * view.row);
      }
      if (band.size() % 2 != 0) {
        set_zero(to.cells + plane * view.plane + band.size() * view.row, view.row);
      }
      for (int64_t row = 0; row < band.size(); row += 2) {
        const int64_t i = begin - rows.range.begin + row;
        const bool second = row + 1 < band.size();
        s.width->outer[part]({first.at, plane * view.plane + row * view.row, view.row}, work);
        s.width->separate(work, to.row(i, plane), second ? to.row(i + 1, plane) : to.spare_row());
      }
    }
  }
  set_zero(to.spare_row(), to.pitch());
}

// Transforms the rows of all planes back. store(rows, view) must copy them from the view.
template <class Store>
void inverse_rows(const Setting& s, const PlaneBuffers& from, const FftPlaces& rows,
                  const FftPlaces& columns, Real* work, const Store& store) {
  Real* cells[kMostPoints];
  const Sequence first = from.cells_of(0, 0, cells);
  const View<Real> view = from.view(columns);
  const int part = s.width->part(columns.end());
  for (int64_t begin = rows.range.begin; begin < rows.range.end; begin += kBandRows) {
    const Range band{begin, std::min(rows.range.end, begin + kBandRows)};
    for (int64_t plane = 0; plane < from.planes; ++plane) {
      for (int64_t row = 0; row < band.size(); row += 2) {
        const int64_t i = begin - rows.range.begin + row;
        const bool second = row + 1 < band.size();
        s.width->join(from.row(i, plane), from.row(second ? i + 1 : i, plane), work);
        s.width->outer_inverse[part](work,
                                     {first.at, plane * view.plane + row * view.row, view.row});
      }
    }
    store(band, view);
  }
}

// Computes the spectra of one vector of the planes of w.
inline void transform_taps(const Setting& s, const Real* w, int64_t vector, Real* memory,
                           Real* work, Real* spectra) {
  const Problem& p = s.p;
  const PlaneBuffers buffers(s, 1, p.R, memory);
  const FftPlaces rows = s.tap_rows(), columns = s.tap_columns();
  const ImageShape shape{Layout::nchw, 1, p.R, p.S};
  const ImageBlock block{shape.size(), static_cast<int>(std::min<int64_t>(
                                           kLanes, s.tap_planes() - vector * kLanes))};
  set_zero(buffers.cells, buffers.cell_floats());
  transform_rows(
      s, buffers, rows, columns, work,
      [&](Range band, const View<Real>& view) {
        load_columns(w + vector * kLanes * shape.size(), block, shape, band, columns.range, {0, 1},
                     view, columns.step * kLanes);
      },
      [](int64_t, const Real*) {});
  Real* at[kMostPoints];
  buffers.place_rows(rows, s.height->points, at);
  const int part = s.height->part(rows.end());
  for (int64_t frequency = 0; frequency < s.width->kept(); ++frequency) {
    s.height->outer[part](buffers.column(at, 0, frequency), work);
    s.height->inner(work, spectra + frequency * s.height->points * kComplex);
  }
}

// The floats of the memory of transform_taps(), without the spectra.
inline int64_t tap_memory(const Setting& s) { return PlaneBuffers(s, 1, s.p.R, nullptr).floats(); }

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
