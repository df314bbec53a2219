#include "cpu/fft_size.h"

#include <cmath>

namespace convkern::cpu {

FftAxis::FftAxis(Pass pass, int64_t x_size, int64_t y_size, int64_t taps, int64_t stride,
                 int64_t pad, int64_t dilation)
    : pass(pass),
      x_size(x_size),
      y_size(y_size),
      stride(stride),
      pad(pad),
      reach((taps - 1) * dilation) {
  const int64_t outputs = cuts_x() ? x_size : y_size;
  const int64_t top = (y_size - 1) * stride + reach;  // the last point that a term of x has
  double least = INFINITY;
  for (const int64_t candidate : kFftPoints) {
    const bool wraps = candidate >= std::max({x_size + pad, top - pad + 1, top - reach + 1,  //
                                              reach + 1});
    const int64_t room = candidate - reach;  // points where outputs are right
    if (room < 1 && !wraps) continue;
    const int64_t fitting = wraps ? outputs : cuts_x() ? room : (room - 1) / stride + 1;
    const int64_t count = ceil_div(outputs, fitting);
    const double cost = static_cast<double>(count * candidate) * (std::log2(candidate) + 2);
    if (cost >= least) continue;
    least = cost;
    points = candidate;
    whole = wraps;
    tiles = count;
    tile = ceil_div(outputs, count);
  }
}

// Tiles begin with what their outputs read.
int64_t FftAxis::base(int64_t i) const {
  if (whole) return 0;
  return cuts_x() ? i * tile + pad - reach : i * tile * stride;
}

FftPlaces FftAxis::x(int64_t i) const {
  const int64_t shift = pad - base(i);  // the place of x[0]
  Range range{0, x_size};
  if (cuts_x()) {
    range = {i * tile, std::min(x_size, (i + 1) * tile)};
  } else if (!whole) {
    range.begin = std::min(x_size, std::max<int64_t>(0, -shift));
    range.end = std::max(range.begin, std::min(x_size, (tile - 1) * stride + reach + 1 - shift));
  }
  return {range, range.begin + shift, 1};
}

FftPlaces FftAxis::y(int64_t i) const {
  const int64_t shift = -base(i);
  Range range{0, y_size};
  if (!cuts_x()) {
    range = {i * tile, std::min(y_size, (i + 1) * tile)};
  } else if (!whole) {  // those from the place 0 to the place of the tile's last x
    range.begin = std::min(y_size, std::max<int64_t>(0, ceil_div(-shift, stride)));
    range.end = std::max(range.begin,
                         std::min(y_size, floor_div(tile - 1 + reach - shift, stride) + 1));
  }
  return {range, range.begin * stride + shift, stride};
}

FftSize::FftSize(const Problem& p)
    : rows(p.pass, p.H, p.OH(), p.R, p.stride_h, p.pad_h, p.dilation_h),
      columns(p.pass, p.W, p.OW(), p.S, p.stride_w, p.pad_w, p.dilation_w) {}

}  // namespace convkern::cpu
