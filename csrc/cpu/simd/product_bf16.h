// In the implicit GEMMs compiled with this file, each lane holds a pair of bfloat16 numbers. One
// product is a[0] * b[0] + a[1] * b[1], which AVX512-BF16 adds in float32. Results are rounded to
// bfloat16. Subnormal numbers count as 0, both in products and in rounding.
#pragma once

#include "cpu/simd/vec_f32_avx512.h"

namespace convkern::cpu {
namespace {

CONVKERN_INLINE __m512bh pairs(Vec a) { return (__m512bh)_mm512_castps_si512(a.v); }

CONVKERN_INLINE Vec add_product(Vec a, Vec b, Vec sum) {
  return {_mm512_dpbf16_ps(sum.v, pairs(a), pairs(b))};
}

using Result = uint16_t;  // the type in memory of y and gx

CONVKERN_INLINE void store_vector(Result* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v.v));
}

CONVKERN_INLINE void store_first(Result* p, int lanes, Vec v) {
  const auto mask = static_cast<__mmask16>((1u << lanes) - 1);
  _mm256_mask_storeu_epi16(p, mask, (__m256i)_mm512_cvtneps_pbh(v.v));
}

CONVKERN_INLINE void store_quarter(Result* p, Quarter q) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), (__m128i)_mm_cvtneps_pbh(q));
}

CONVKERN_INLINE void store_number(Result* p, Real number) {
  *p = static_cast<Result>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(number)), 0));
}

}  // namespace
}  // namespace convkern::cpu
