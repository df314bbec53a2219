// float32 vectors for any processor.
#pragma once

#include "cpu/simd/half_baseline.h"
#include "cpu/simd/real_f32.h"
#include "cpu/simd/vec_baseline.h"

namespace convkern::cpu {
namespace {

// Numbers of 16 bits in memory. Stores round to nearest even.
CONVKERN_INLINE Vec load_vector(const Half* p) {
  Vec v;
  for (int i = 0; i < Vec::kLanes; ++i) v.v[i] = float_of_f16(p[i].bits);
  return v;
}
CONVKERN_INLINE void store_vector(Half* p, Vec v) {
  for (int i = 0; i < Vec::kLanes; ++i) p[i].bits = f16_of_float(v.v[i]);
}
CONVKERN_INLINE Vec load_vector(const BFloat16* p) {
  Vec v;
  for (int i = 0; i < Vec::kLanes; ++i) v.v[i] = float_of_bits(uint32_t{p[i].bits} << 16);
  return v;
}
CONVKERN_INLINE void store_vector(BFloat16* p, Vec v) {
  for (int i = 0; i < Vec::kLanes; ++i) {
    const uint32_t bits = bits_of_float(v.v[i]), odd = bits >> 16 & 1;
    const uint32_t sum = v.v[i] == v.v[i] ? bits + 0x7fff + odd : kBFloat16NaN;
    p[i].bits = static_cast<uint16_t>(sum >> 16);
  }
}

}  // namespace
}  // namespace convkern::cpu
