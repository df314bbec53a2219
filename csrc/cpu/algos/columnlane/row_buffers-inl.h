// Rows of images in buffers whose vectors are neighbouring columns.
#pragma once

#include "cpu/blocking/parts-inl.h"
#include "cpu/blocking/tasks-inl.h"
#include "cpu/tiles/correlation-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

constexpr int64_t kSliceChannels = 16;  // of y or gx that a task computes at a time

// How a buffer holds a row: column i of the image is at (i + pad) / step of the part numbered
// (i + pad) % step, so that columns `step` apart are adjacent. Everything else is zero.
struct RowLayout {
  int64_t step, pad;
  int64_t width;  // floats of a part, whole vectors
  int64_t floats() const { return step * width; }
};

// A buffer of rows of some channels.
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

// How often a sum over planes is cut.
struct PlaneSlices {
  int64_t all, count;
  PlaneSlices(int64_t all, int64_t planes) : all(all), count(ceil_div(all, planes)) {}
  Range at(int64_t slice) const { return near_equal_part(all, count, slice); }
};

// Calls move(memory, step, buffer, n) for the parts of the rows and channels of an image: n floats,
// `step` apart in memory, adjacent in the buffer, whose row 0, channel 0 are rows.begin,
// channels.begin.
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

// The rows of an image in memory from row `first`, channel `channel` on, where they are vectors as
// the layout's are: then they need no buffer. Null otherwise.
View<Real> rows_in_memory(Real* image, const ImageShape& shape, int64_t first, int64_t channel,
                          const RowLayout& layout) {
  const bool aligned = reinterpret_cast<uintptr_t>(image) % (kLanes * sizeof(Real)) == 0;
  if (!aligned || shape.layout != Layout::nchw || layout.step != 1 || layout.width != shape.width) {
    return {nullptr, 0, 0};
  }
  const int64_t plane = shape.height * shape.width;
  return {image + channel * plane + first * shape.width, plane, shape.width};
}

// Taps that read the same part of x's rows: taps first + i * tap_stride, i in [0, count), read
// what begins at `at` for i = 0 and `step` floats further for each i.
struct Phase {
  int64_t first, tap_stride, count;
  int64_t at, step;
  int64_t packed;  // where the forward pass packs the taps, in floats
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

RowLayout x_layout(const Problem& p) {
  const int64_t outputs = whole_vectors(p.OW());
  return {p.stride_w, p.pad_w, whole_vectors(outputs + (p.S - 1) * p.dilation_w / p.stride_w)};
}

// The size of a task: it computes `rows` of the outputs from `planes` of the input at a time.
struct TaskSize {
  int64_t planes, rows;
};

// make(planes, rows) gives the buffers, read(rows) the input rows that a band loads, of which
// `fresh` a row are not loaded by its neighbours too. Bands are cut for the cache, and where tasks
// would be too few; where that would load most rows again, a task takes fewer planes instead.
template <class Make, class Read>
TaskSize task_size(const Problem& p, int64_t planes, int64_t rows, int64_t fresh, const Make& make,
                   const Read& read) {
  for (;; planes = (planes + 1) / 2) {
    const int64_t n = rows_in_band(rows, 1, [&](int64_t m) { return make(planes, m); });
    const bool repeats = n < rows && read(n) > 2 * n * fresh;
    if (repeats && planes > 1) continue;
    return {planes, rows_for_threads(rows, n, p.N * p.groups)};
  }
}

// The axis of columns that all read real ones or zeros of the buffer, whatever the tap.
Axis unclipped(int64_t out, int64_t taps) { return {out, taps, taps, 0, 1, 0}; }

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
