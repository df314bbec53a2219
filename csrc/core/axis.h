// One axis of a correlation, the form that all three passes of a convolution take:
//
//   out[u] += sum over m of tap[m] * in[u * out_step + m * tap_step + offset]
//
// for u in [0, out), m in [0, taps); terms whose index falls outside [0, in) are zero.
//
//   forward      in = x,  tap = w,  out = y     out_step = stride,   tap_step = dilation
//   grad_weight  in = x,  tap = gy, out = gw    out_step = dilation, tap_step = stride
//   grad_input   in = gy, tap = w,  out = gx    one correlation per residue of the gx index modulo
//                the stride, so that every gx element is gathered once: see grad_input_axis().
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace convkern {

struct Axis {
  int64_t out, taps, in;
  int64_t out_step, tap_step, offset;

  // Index range [lowest, highest] of the terms, in-range or not.
  int64_t lowest() const { return offset; }
  int64_t highest() const { return (out - 1) * out_step + (taps - 1) * tap_step + offset; }
};

struct Range {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
  int64_t size() const { return end - begin; }
};

inline Range shifted(Range r, int64_t by) { return {r.begin + by, r.end + by}; }

inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }   // b > 0
inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }  // b > 0

// Taps k with low + k * tap_step >= 0 and high + k * tap_step < in.
inline Range taps_between(const Axis& axis, int64_t low, int64_t high) {
  return {std::max<int64_t>(0, ceil_div(-low, axis.tap_step)),
          std::min<int64_t>(axis.taps, floor_div(axis.in - 1 - high, axis.tap_step) + 1)};
}

// Taps of which some term is in range for some output of [u.begin, u.end).
inline Range taps_in_range(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  return taps_between(axis, first + (u.size() - 1) * axis.out_step, first);
}

// Taps of which every term is in range for the outputs [u.begin, u.end); may be empty.
inline Range taps_all_in_range(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  return taps_between(axis, first, first + (u.size() - 1) * axis.out_step);
}

// Inputs that the outputs [u.begin, u.end) read; empty if every term is out of range.
inline Range inputs_read(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  const int64_t last = axis.offset + (u.end - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step;
  return {std::max<int64_t>(0, first), std::min<int64_t>(axis.in, last + 1)};
}

// The axis of the outputs [u.begin, u.end) alone, on the inputs [in.begin, in.end) alone.
inline Axis restrict_outputs(const Axis& axis, Range u, Range in) {
  Axis part = axis;
  part.out = u.size();
  part.in = in.size();
  part.offset = axis.offset + u.begin * axis.out_step - in.begin;
  return part;
}

// The axis of the taps [m.begin, m.end) alone, on the inputs [in.begin, in.end) alone.
inline Axis restrict_taps(const Axis& axis, Range m, Range in) {
  Axis part = axis;
  part.taps = m.size();
  part.in = in.size();
  part.offset = axis.offset + m.begin * axis.tap_step - in.begin;
  return part;
}

// grad_input along one axis, for the gx indices h = residue + stride * u: h takes gy[i] * w[r]
// where h + pad = i * stride + r * dilation. The r that solve this for some i are
// first_tap + m * tap_stride (tap_stride = stride / gcd(stride, dilation)), with i falling by
// dilation / gcd as m rises; taps are listed from the last to the first so that i rises.
struct ResidueAxis {
  Axis axis;           // axis.taps may be 0: then gx is 0 at these indices
  int64_t last_tap;    // the kernel index of tap 0
  int64_t tap_stride;  // the kernel index of tap m is last_tap - m * tap_stride
};

inline ResidueAxis grad_input_axis(int64_t gx_size, int64_t gy_size, int64_t kernel, int64_t stride,
                                   int64_t pad, int64_t dilation, int64_t residue) {
  const int64_t gcd = std::gcd(stride, dilation);
  const int64_t tap_stride = stride / gcd;
  ResidueAxis result{};
  result.tap_stride = tap_stride;
  result.axis.out = gx_size > residue ? (gx_size - residue - 1) / stride + 1 : 0;
  result.axis.in = gy_size;
  result.axis.out_step = 1;
  result.axis.tap_step = dilation / gcd;
  for (int64_t first = 0; first < std::min(tap_stride, kernel); ++first) {
    const int64_t shifted = residue + pad - first * dilation;
    if (shifted % stride != 0) continue;
    result.axis.taps = (kernel - 1 - first) / tap_stride + 1;
    result.last_tap = first + (result.axis.taps - 1) * tap_stride;
    result.axis.offset = shifted / stride - (result.axis.taps - 1) * result.axis.tap_step;
    break;
  }
  return result;
}

}  // namespace convkern
