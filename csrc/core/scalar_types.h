// The storage types of the reference kernels, with exact conversion to double and one rounding
// back.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace convkern {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

CONVKERN_HOST_DEVICE inline double to_double(float value) { return value; }
CONVKERN_HOST_DEVICE inline double to_double(double value) { return value; }

CONVKERN_HOST_DEVICE inline double to_double(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

CONVKERN_HOST_DEVICE inline double to_double(Half value) {
  const int exponent = (value.bits >> 10) & 0x1f;
  const int mantissa = value.bits & 0x3ff;
  double magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? double{INFINITY} : double{NAN};
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<double>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<double>(0x400 + mantissa), exponent - 25);
  }
  return value.bits & 0x8000 ? -magnitude : magnitude;
}

// Rounds `value` once, to nearest even, to a binary format. The format has `digits` significant
// bits, the smallest normal number 2^min_exponent and the largest number `largest`.
CONVKERN_HOST_DEVICE inline double round_to_format(double value, int digits, int min_exponent,
                                                   double largest) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent;
  std::frexp(value, &exponent);  // value = m * 2^exponent, m in [0.5, 1)
  const int unit = (exponent - 1 > min_exponent ? exponent - 1 : min_exponent) - (digits - 1);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
  if (std::fabs(rounded) <= largest) return rounded;
  return std::copysign(double{INFINITY}, value);
}

template <class T>
CONVKERN_HOST_DEVICE T from_double(double value);

// The type in which sums of type Sum are added up, so that only the total is rounded.
template <class Sum>
struct WideOf {
  using type = double;
};
template <class Sum>
using Wide = typename WideOf<Sum>::type;

template <>
CONVKERN_HOST_DEVICE inline float from_double(double value) {
  return static_cast<float>(value);
}

template <>
CONVKERN_HOST_DEVICE inline double from_double(double value) {
  return value;
}

template <>
CONVKERN_HOST_DEVICE inline BFloat16 from_double(double value) {
  if (std::isnan(value)) return {0x7fc0};
  const float rounded =
      static_cast<float>(round_to_format(value, 8, -126, std::ldexp(255.0, 127 - 7)));
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  return {static_cast<uint16_t>(bits >> 16)};
}

template <>
CONVKERN_HOST_DEVICE inline Half from_double(double value) {
  if (std::isnan(value)) return {0x7e00};
  const double rounded = round_to_format(value, 11, -14, 65504.0);
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(rounded);
  if (std::isinf(magnitude)) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < std::ldexp(1.0, -14)) {  // subnormal or zero: a multiple of 2^-24
    return {static_cast<uint16_t>(sign | static_cast<int>(std::ldexp(magnitude, 24)))};
  }
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);  // in [0.5, 1), 11 bits
  const int mantissa = static_cast<int>(std::ldexp(fraction, 11)) - 0x400;
  return {static_cast<uint16_t>(sign | ((exponent + 14) << 10) | mantissa)};
}

}  // namespace convkern
