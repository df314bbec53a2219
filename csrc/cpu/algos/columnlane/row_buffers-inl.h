// Buffers of image rows whose vectors are neighbouring columns. This file lays them out, copies
// rows to and from them, and chooses how large the tasks of direct_columnlane are.
#pragma once

#include "cpu/blocking/finish-inl.h"
#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/correlation-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

constexpr int64_t kSliceChannels = 16;  // the most channels of y or gx computed at a time

// How a buffer holds a row. A row is `step` parts. Column i of the image is at place (i + pad) /
// step of part (i + pad) % step, so that columns `step` apart are adjacent. All other places are
// zero.
struct RowLayout {
  int64_t step, pad;
  int64_t width;  // floats of a part, a number of whole vectors
  int64_t floats() const { return step * width; }
};

// A buffer that holds some rows of some channels.
struct RowBuffer {
  RowLayout layout;
  int64_t channels, rows;
  int64_t floats() const { return channels * rows * layout.floats(); }
  View<Real> view(Real* at) const { return {at, rows * layout.floats(), layout.floats()}; }
};

// The buffers of a thread: `x` holds rows of x or gx, `y` rows of y or gy.
struct RowBuffers {
  RowBuffer x, y;
  int64_t floats() const { return x.floats() + y.floats(); }
  int64_t bytes() const { return floats() * static_cast<int64_t>(sizeof(Real)); }
};

// Cuts `all` planes into `count` slices of at most `planes` each.
struct PlaneSlices {
  int64_t all, count;
  PlaneSlices(int64_t all, int64_t planes) : all(all), count(ceil_div(all, planes)) {}
  Range at(int64_t slice) const { return near_equal_part(all, count, slice); }
};

// Calls move(memory, step, buffer, n) for every part of every row of some channels of an image. A
// part is n floats that are `step` apart in memory and adjacent in the buffer. The buffer begins
// with row rows.begin and channel channels.begin.
template <class Float, class Move>
CONVKERN_INLINE void for_each_row_part(Float* image, const ImageShape& shape, Range rows,
                                       Range channels, const View<Real>& buffer,
                                       const RowLayout& layout, const Move& move) {
  const bool nchw = shape.layout == Layout::nchw;
  const int64_t column = nchw ? 1 : shape.channels;
  for (int64_t c = channels.begin; c < channels.end; ++c) {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      Float* from = image + (nchw ? (c * shape.height + row) * shape.width
                                  : row * shape.width * shape.channels + c);
      Real* to = buffer.at + (c - channels.begin) * buffer.plane + (row - rows.begin) * buffer.row;
      for (int64_t part = 0; part < layout.step; ++part) {
        const int64_t first = std::max<int64_t>(0, ceil_div(layout.pad - part, layout.step));
        const int64_t last = floor_div(shape.width - 1 + layout.pad - part, layout.step);
        const int64_t n = std::min(layout.width, last + 1) - first;
        if (n <= 0) continue;
        move(from + (first * layout.step + part - layout.pad) * column, layout.step * column,
             to + part * layout.width + first, n);
      }
    }
  }
}

void load_columns(const Real* image, const ImageShape& shape, Range rows, Range channels,
                  const View<Real>& to, const RowLayout& layout) {
  for_each_row_part(image, shape, rows, channels, to, layout,
                    [](const Real* memory, int64_t step, Real* buffer, int64_t n) {
                      if (step == 1) {
                        std::memcpy(buffer, memory, n * sizeof(Real));
                      } else {
                        for (int64_t i = 0; i < n; ++i) buffer[i] = memory[i * step];
                      }
                    });
}

void store_columns(Real* image, const ImageShape& shape, Range rows, Range channels,
                   const View<Real>& from, const RowLayout& layout) {
  for_each_row_part(image, shape, rows, channels, from, layout,
                    [](Real* memory, int64_t step, const Real* buffer, int64_t n) {
                      if (step == 1) {
                        std::memcpy(memory, buffer, n * sizeof(Real));
                      } else {
                        for (int64_t i = 0; i < n; ++i) memory[i * step] = buffer[i];
                      }
                    });
}

// Returns the rows of an image, from row `first` and channel `channel` on, if the image itself has
// the layout of a buffer: aligned NCHW rows of whole vectors, in one part. Such results are written
// without a buffer. Otherwise the view is null.
View<Real> rows_in_memory(Real* image, const ImageShape& shape, int64_t first, int64_t channel,
                          const RowLayout& layout) {
  const bool aligned = reinterpret_cast<uintptr_t>(image) % (kLanes * sizeof(Real)) == 0;
  if (!aligned || shape.layout != Layout::nchw || layout.step != 1 || layout.width != shape.width) {
    return {nullptr, 0, 0};
  }
  const int64_t plane = shape.height * shape.width;
  return {image + channel * plane + first * shape.width, plane, shape.width};
}

// The taps of a row that read the same part of x's rows. These are the taps first + i * tap_stride
// for i in [0, count). In a row of the buffer, tap i of output column 0 reads the float at
// at + i * step.
struct Phase {
  int64_t first, tap_stride, count;
  int64_t at, step;
  int64_t packed;  // offset of the taps as forward packs them, in floats
};

std::vector<Phase> phases(const Problem& p, const RowLayout& x) {
  std::vector<Phase> list;
  const int64_t stride = p.stride_w, dilation = p.dilation_w;
  const int64_t tap_stride = stride / std::gcd(stride, dilation);
  int64_t packed = 0;
  for (int64_t first = 0; first < std::min(tap_stride, p.S); ++first) {
    const int64_t count = (p.S - 1 - first) / tap_stride + 1, column = first * dilation;
    list.push_back({first, tap_stride, count, column % stride * x.width + column / stride,
                    tap_stride * dilation / stride, packed});
    packed += p.O * p.Cg * p.R * count;
  }
  return list;
}

// Lists the phases of a plan with these buffers. Buffers that are larger than a thread may have are
// why there is no plan. The list would be long then: a phase has at least a vector in the buffer.
std::vector<Phase> phases_of_plan(const Problem& p, const RowBuffers& buffers) {
  return buffers.bytes() > kThreadBytes ? std::vector<Phase>() : phases(p, buffers.x.layout);
}

RowLayout x_layout(const Problem& p) {
  const int64_t outputs = whole_vectors(p.OW());
  return {p.stride_w, p.pad_w, whole_vectors(outputs + (p.S - 1) * p.dilation_w / p.stride_w)};
}

// The size of a task. It computes `rows` output rows and reads `planes` input channels at a time.
struct TaskSize {
  int64_t planes, rows;
};

// Chooses the size of a task. make(planes, rows) returns the buffers of a task, and read(rows) the
// input rows that it reads. Only `fresh` of these for each output row are not read by neighbouring
// tasks too. Bands are cut so that the buffers fit the cache and that there are enough tasks. If
// fitting the cache would make neighbours read most rows again, a task takes fewer planes instead.
template <class Make, class Read>
TaskSize task_size(const Problem& p, int64_t planes, int64_t rows, int64_t fresh, const Make& make,
                   const Read& read) {
  for (;; planes = (planes + 1) / 2) {
    const int64_t n = rows_in_band(rows, 1, [&](int64_t m) { return make(planes, m); });
    const bool repeats = n < rows && read(n) > 2 * n * fresh;
    if (repeats && planes > 1) continue;
    return {planes, rows_for_threads(rows, n, GroupTasks::of_band(p, p.N))};
  }
}

// Returns the columns axis of `out` vectors and some taps, none of which is out of range: the
// buffer has zeros around the image.
Axis unclipped(int64_t out, int64_t taps) { return {out, taps, taps, 0, 1, 0}; }

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
