// float64 vectors for AVX2 and FMA: 4 lanes in 1 quarter. vec_baseline.h lists the operations.
#pragma once

#include "cpu/simd/prelude.h"
#include "cpu/simd/real_f64.h"

namespace convkern::cpu {
namespace {

struct Vec {
  __m256d v;
  static constexpr int kLanes = 4;
  static constexpr RegisterTiles kTiles = kAvx2Tiles;

  static CONVKERN_INLINE Vec zero() { return {_mm256_setzero_pd()}; }
  static CONVKERN_INLINE Vec broadcast(const Real* p) { return {_mm256_broadcast_sd(p)}; }
  static CONVKERN_INLINE Vec load(const Real* p) { return {_mm256_load_pd(p)}; }
  CONVKERN_INLINE void store(Real* p) const { _mm256_store_pd(p, v); }
  static CONVKERN_INLINE Vec load_unaligned(const Real* p) { return {_mm256_loadu_pd(p)}; }
  static CONVKERN_INLINE __m256i first(int lanes) {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(lanes), lane);
  }
  static CONVKERN_INLINE Vec load_first(const Real* p, int lanes) {
    return {_mm256_maskload_pd(p, first(lanes))};
  }
  using Lanes = __m256i;
  static CONVKERN_INLINE Lanes load_lanes(const int32_t* p) {
    // AVX2 permutes 32 bits at a time, so each lane needs the indices of its two halves.
    const __m128i lanes = _mm_slli_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p)), 1);
    const __m256i low = _mm256_cvtepu32_epi64(lanes);
    return _mm256_or_si256(low,
                           _mm256_slli_epi64(_mm256_add_epi64(low, _mm256_set1_epi64x(1)), 32));
  }
  CONVKERN_INLINE Vec permuted(Lanes from) const {
    return {_mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(v), from))};
  }
  CONVKERN_INLINE void store_unaligned(Real* p) const { _mm256_storeu_pd(p, v); }
  CONVKERN_INLINE void store_first(Real* p, int lanes) const {
    _mm256_maskstore_pd(p, first(lanes), v);
  }
  static CONVKERN_INLINE Vec from_quarters(const Quarter (&q)[1]) { return {q[0]}; }
  CONVKERN_INLINE void to_quarters(Quarter (&q)[1]) const { q[0] = v; }
};

CONVKERN_INLINE Vec add(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec larger_magnitude(Vec a, Vec b) {
  return {_mm256_max_pd(a.v, _mm256_andnot_pd(_mm256_set1_pd(-0.0), b.v))};
}
CONVKERN_INLINE bool exceeds(Vec a, Vec b) {
  return _mm256_movemask_pd(_mm256_cmp_pd(a.v, b.v, _CMP_NLE_UQ)) != 0;
}
CONVKERN_INLINE LaneBits between(Vec a, Vec low, Vec high) {
  const __m256d above = _mm256_cmp_pd(a.v, low.v, _CMP_NLE_UQ);
  const __m256d below = _mm256_cmp_pd(a.v, high.v, _CMP_NGE_UQ);
  return static_cast<LaneBits>(_mm256_movemask_pd(_mm256_and_pd(above, below)));
}
CONVKERN_INLINE Vec kept(Vec a, LaneBits bits) {
  const __m256i lane = _mm256_setr_epi64x(1, 2, 4, 8);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi64x(bits), lane);
  return {_mm256_and_pd(a.v, _mm256_castsi256_pd(_mm256_cmpeq_epi64(set, lane)))};
}
CONVKERN_INLINE Vec div(Vec a, Vec b) { return {_mm256_div_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec bounded(Vec a, Vec low, Vec high) {
  return {_mm256_min_pd(high.v, _mm256_max_pd(low.v, a.v))};
}

CONVKERN_INLINE Vec held(Vec a) {
  asm("" : "+x"(a.v));
  return a;
}

CONVKERN_INLINE void transpose_quarters(Vec (&a)[4]) {
  const __m256d t0 = _mm256_unpacklo_pd(a[0].v, a[1].v);
  const __m256d t1 = _mm256_unpackhi_pd(a[0].v, a[1].v);
  const __m256d t2 = _mm256_unpacklo_pd(a[2].v, a[3].v);
  const __m256d t3 = _mm256_unpackhi_pd(a[2].v, a[3].v);
  a[0].v = _mm256_permute2f128_pd(t0, t2, 0x20);
  a[1].v = _mm256_permute2f128_pd(t1, t3, 0x20);
  a[2].v = _mm256_permute2f128_pd(t0, t2, 0x31);
  a[3].v = _mm256_permute2f128_pd(t1, t3, 0x31);
}

CONVKERN_INLINE void exchange_quarters(Vec (&)[1]) {}

}  // namespace
}  // namespace convkern::cpu
