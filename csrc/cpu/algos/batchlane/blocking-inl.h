// How direct_batchlane cuts a pass into tasks, and the buffers that a task works in.
#pragma once

namespace convkern::cpu {
namespace {

constexpr int64_t kBandBytes = 384 << 10;       // aimed at, of one thread's buffers
constexpr int64_t kThreadBytes = 8 << 20;       // never exceeded by one thread's buffers
constexpr int64_t kAccumulatorBytes = 1 << 20;  // aimed at, of a thread's weight gradient sums
constexpr int64_t kPartialBytes = 4 << 20;      // of the weight gradient's partial results
constexpr int64_t kMaxChunks = 64;              // of the weight gradient
constexpr double kTaskFlops = 1 << 16;          // less is not worth waking a thread for

// Columns of a lane buffer: those of the image and the zeros around them that terms may read.
struct Window {
  int64_t low = 0, high = 0;
  Window(int64_t width) : high(width - 1) {}
  void cover(const Axis& axis) {
    low = std::min(low, axis.lowest());
    high = std::max(high, axis.highest());
  }
  int64_t width() const { return high - low + 1; }
};

Axis forward_rows(const Problem& p) {
  return {p.OH(), p.R, p.H, p.stride_h, p.dilation_h, -p.pad_h};
}
Axis forward_columns(const Problem& p) {
  return {p.OW(), p.S, p.W, p.stride_w, p.dilation_w, -p.pad_w};
}
// The weight gradient exchanges the roles of outputs and taps.
Axis swap_roles(const Axis& a) { return {a.taps, a.out, a.in, a.tap_step, a.out_step, a.offset}; }

ImageShape x_shape(const Problem& p) { return {p.layout, p.C, p.H, p.W}; }
ImageShape y_shape(const Problem& p) { return {p.layout, p.O, p.OH(), p.OW()}; }

// Two lane buffers of a thread: `x` holds rows of x or gx, `y` rows of y or gy.
struct Buffers {
  int64_t x_rows, x_width, y_rows, y_width;  // vectors
  int64_t x_floats, y_floats;
  Buffers(int64_t x_channels, int64_t x_rows, int64_t x_width, int64_t y_channels, int64_t y_rows,
          int64_t y_width)
      : x_rows(x_rows),
        x_width(x_width),
        y_rows(y_rows),
        y_width(y_width),
        x_floats(x_channels * x_rows * x_width * kLanes),
        y_floats(y_channels * y_rows * y_width * kLanes) {}
  int64_t bytes() const { return (x_floats + y_floats) * static_cast<int64_t>(sizeof(float)); }
  View<float> x(float* at) const { return {at, x_rows * x_width * kLanes, x_width * kLanes}; }
  View<float> y(float* at) const { return {at, y_rows * y_width * kLanes, y_width * kLanes}; }
};

// The most rows, from all `rows` down to `least`, for which make(rows) keeps to the band size.
template <class Make>
int64_t rows_in_band(int64_t rows, int64_t least, const Make& make) {
  while (rows > least && make(rows).bytes() > kBandBytes) rows = std::max(least, (rows + 1) / 2);
  return rows;
}

// Input rows that a band of `rows` outputs reads.
int64_t input_rows(const Axis& axis, int64_t rows) {
  return std::min(axis.in, (rows - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step + 1);
}

// How a pass is cut into tasks.
struct Blocking {
  int64_t blocks, bands, band_rows;
  Buffers buffers;
  Window window;

  Blocking(const Problem& p, int64_t rows, int64_t band_rows, const Buffers& buffers,
           const Window& window)
      : blocks(ceil_div(p.N, kLanes)),
        bands(ceil_div(rows, band_rows)),
        band_rows(band_rows),
        buffers(buffers),
        window(window) {}

  ImageBlock images(const Problem& p, int64_t block, const ImageShape& shape) const {
    return {shape.size(), static_cast<int>(std::min<int64_t>(kLanes, p.N - block * kLanes))};
  }
  Range band(int64_t rows, int64_t index) const {
    return {index * band_rows, std::min(rows, (index + 1) * band_rows)};
  }
  int64_t grain(const Problem& p, int64_t tasks) const {
    return std::max<int64_t>(1, static_cast<int64_t>(kTaskFlops * tasks / p.flops()));
  }
};

float* thread_buffers(void* workspace, const Buffers& buffers, int thread) {
  return static_cast<float*>(workspace) + thread * (buffers.x_floats + buffers.y_floats);
}

void set_zero(float* at, int64_t floats) { std::memset(at, 0, floats * sizeof(float)); }

}  // namespace
}  // namespace convkern::cpu
