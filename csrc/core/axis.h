// One axis of a correlation. All three passes of a convolution take this form:
//
//   out[u] += sum over m of tap[m] * in[u * out_step + m * tap_step + offset]
//
// Here u is in [0, out) and m in [0, taps). A term whose index falls outside [0, in) is zero.
//
//   forward      in = x,  tap = w,  out = y     out_step = stride,   tap_step = dilation
//   grad_weight  in = x,  tap = gy, out = gw    out_step = dilation, tap_step = stride
//   grad_input   in = gy, tap = w,  out = gx    The gx indices are split by their residue modulo
//                the stride, and each residue is one correlation. So every gx element is
//                gathered once; see grad_input_axis().
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

namespace convkern {

struct Axis {
  int64_t out, taps, in;
  int64_t out_step, tap_step, offset;

  // The indices that the terms use lie in [lowest, highest]; some may be out of range.
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

// The taps k with low + k * tap_step >= 0 and high + k * tap_step < in.
inline Range taps_between(const Axis& axis, int64_t low, int64_t high) {
  return {std::max<int64_t>(0, ceil_div(-low, axis.tap_step)),
          std::min<int64_t>(axis.taps, floor_div(axis.in - 1 - high, axis.tap_step) + 1)};
}

// The taps that have a term in range for at least one output of [u.begin, u.end).
inline Range taps_in_range(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  return taps_between(axis, first + (u.size() - 1) * axis.out_step, first);
}

// The taps whose terms are in range for all outputs of [u.begin, u.end). The range may be empty.
inline Range taps_all_in_range(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  return taps_between(axis, first, first + (u.size() - 1) * axis.out_step);
}

// The inputs that the outputs [u.begin, u.end) read. The range is empty if every term is out of
// range.
inline Range inputs_read(const Axis& axis, Range u) {
  const int64_t first = axis.offset + u.begin * axis.out_step;
  const int64_t last = axis.offset + (u.end - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step;
  return {std::max<int64_t>(0, first), std::min<int64_t>(axis.in, last + 1)};
}

// Restricts an axis to the outputs [u.begin, u.end) and the inputs [in.begin, in.end).
inline Axis restrict_outputs(const Axis& axis, Range u, Range in) {
  Axis part = axis;
  part.out = u.size();
  part.in = in.size();
  part.offset = axis.offset + u.begin * axis.out_step - in.begin;
  return part;
}

// Restricts an axis to the taps [m.begin, m.end) and the inputs [in.begin, in.end).
inline Axis restrict_taps(const Axis& axis, Range m, Range in) {
  Axis part = axis;
  part.taps = m.size();
  part.in = in.size();
  part.offset = axis.offset + m.begin * axis.tap_step - in.begin;
  return part;
}

// The correlation that computes grad_input along one axis at the gx indices residue + stride * u.
// Let h be such an index. The element at h sums gy[i] * w[r] over the pairs with h + pad = i *
// stride + r * dilation. The r that solve this for some i are first_tap + m * tap_stride, where
// tap_stride = stride / gcd(stride, dilation). As m rises by 1, i falls by dilation / gcd(stride,
// dilation). The taps are listed from the last to the first, so that i rises instead.
struct ResidueAxis {
  Axis axis;           // axis.taps may be 0; gx is then 0 at these indices
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
