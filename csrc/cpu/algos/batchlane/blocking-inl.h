// Cuts a pass of direct_batchlane into tasks, and lays out the buffers that a task works in.
#pragma once

#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/images-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/correlation-inl.h"

namespace convkern::cpu {
namespace {
namespace batchlane {

// The two lane buffers of a thread. `x` holds rows of x or gx, and `y` rows of y or gy. Elements of
// a buffer are vectors, ordered (channel, row, column), with one image in each lane.
struct Buffers {
  int64_t x_rows, x_width, y_rows, y_width;  // widths in vectors
  int64_t x_floats, y_floats;
  Buffers(int64_t x_channels, int64_t x_rows, int64_t x_width, int64_t y_channels, int64_t y_rows,
          int64_t y_width)
      : x_rows(x_rows),
        x_width(x_width),
        y_rows(y_rows),
        y_width(y_width),
        x_floats(x_channels * x_rows * x_width * kLanes),
        y_floats(y_channels * y_rows * y_width * kLanes) {}
  int64_t bytes() const { return (x_floats + y_floats) * static_cast<int64_t>(sizeof(Real)); }
  View<Real> x(Real* at) const { return {at, x_rows * x_width * kLanes, x_width * kLanes}; }
  View<Real> y(Real* at) const { return {at, y_rows * y_width * kLanes, y_width * kLanes}; }
};

// The tasks of a pass: `blocks` blocks of kLanes images, and in each `bands` bands of `band_rows`
// rows. The last block and the last band may be smaller. `span` has the columns of the buffer that
// is read, with the zeros around the image.
struct Blocking {
  int64_t blocks, bands, band_rows;
  Buffers buffers;
  ColumnSpan span;

  Blocking(const Problem& p, int64_t rows, int64_t band_rows, const Buffers& buffers,
           const ColumnSpan& span)
      : blocks(ceil_div(p.N, kLanes)),
        bands(ceil_div(rows, band_rows)),
        band_rows(band_rows),
        buffers(buffers),
        span(span) {}

  ImageBlock images(const Problem& p, int64_t block, const ImageShape& shape) const {
    return {shape.size(), static_cast<int>(std::min<int64_t>(kLanes, p.N - block * kLanes))};
  }
  Range band(int64_t rows, int64_t index) const {
    return {index * band_rows, std::min(rows, (index + 1) * band_rows)};
  }
};

// Returns the rows of a band. The size of the cache alone never makes a band smaller than `least`
// rows, but too few tasks for the threads may. make(rows) returns the buffers of such a band.
template <class Make>
int64_t band_rows(const Problem& p, int64_t rows, int64_t least, const Make& make) {
  return rows_for_threads(rows, rows_in_band(rows, least, make),
                          GroupTasks::of_band(p, ceil_div(p.N, kLanes)));
}

// Makes c read `image`, with `columns` as its columns axis. Neighbouring vectors of `image` are
// neighbouring columns.
void read_columns(Correlation& c, const View<Real>& image, const Axis& columns) {
  c.columns = columns;
  c.in = {image.at + columns.offset * kLanes, image.plane, image.row};
  c.in_output = columns.out_step * kLanes;
  c.in_tap = columns.tap_step * kLanes;
}

Real* thread_buffers(void* workspace, const Buffers& buffers, int thread) {
  return static_cast<Real*>(workspace) + thread * (buffers.x_floats + buffers.y_floats);
}

}  // namespace batchlane
}  // namespace
}  // namespace convkern::cpu
