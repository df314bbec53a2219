// float16 in memory and float32 in registers, on any processor. Rounds to nearest even, as F16C
// does.
#pragma once

#include "cpu/simd/prelude.h"

namespace convkern::cpu {
namespace {

CONVKERN_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

CONVKERN_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

CONVKERN_INLINE float float_of_f16(uint16_t half) {
  const uint32_t magnitude = half & 0x7fff, sign = static_cast<uint32_t>(half & 0x8000) << 16;
  // The exponents' biases differ by 112. The product is exact, and it makes subnormal numbers
  // normal.
  const uint32_t bits = bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f);
  return float_of_bits(bits | sign | (magnitude >= 0x7c00 ? 0xffu << 23 : 0));
}

CONVKERN_INLINE uint16_t f16_of_float(float value) {
  constexpr uint32_t kInfinity = 0x7f800000, kOverflow = 0x477ff000;  // 65520 rounds up to 2^16
  constexpr uint32_t kNormal = 0x38800000;                            // 2^-14
  const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > kInfinity) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= kOverflow) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < kNormal) {  // the sum rounds to a multiple of 2^-24, the unit of subnormals
    return static_cast<uint16_t>(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) & 0x7ff));
  }
  const uint32_t to_even = 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | ((magnitude + to_even - (112u << 23)) >> 13));
}

}  // namespace
}  // namespace convkern::cpu
