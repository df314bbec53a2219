// float16 in memory and float32 in registers, by the F16C instructions. AVX2 processors have them.
#pragma once

#include "cpu/simd/prelude.h"

namespace convkern::cpu {
namespace {

inline void widen_f16(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(halves));
  }
  for (; i < n; ++i) to[i] = _cvtsh_ss(from[i]);
}

inline void narrow_f16(const float* from, int64_t n, uint16_t* to) {
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), kNearestEven);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
  for (; i < n; ++i) to[i] = _cvtss_sh(from[i], kNearestEven);
}

}  // namespace
}  // namespace convkern::cpu
