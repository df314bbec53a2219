// float64 vectors for AVX-512: 8 lanes in 2 quarters. vec_baseline.h lists the operations.
#pragma once

#include "cpu/simd/prelude.h"
#include "cpu/simd/real_f64.h"

namespace convkern::cpu {
namespace {

struct Vec {
  __m512d v;
  static constexpr int kLanes = 8;
  static constexpr RegisterTiles kTiles = kAvx512Tiles;

  static CONVKERN_INLINE Vec zero() { return {_mm512_setzero_pd()}; }
  static CONVKERN_INLINE Vec broadcast(const Real* p) { return {_mm512_set1_pd(*p)}; }
  static CONVKERN_INLINE Vec load(const Real* p) { return {_mm512_load_pd(p)}; }
  CONVKERN_INLINE void store(Real* p) const { _mm512_store_pd(p, v); }
  static CONVKERN_INLINE Vec load_unaligned(const Real* p) { return {_mm512_loadu_pd(p)}; }
  static CONVKERN_INLINE Vec load_first(const Real* p, int lanes) {
    return {_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << lanes) - 1), p)};
  }
  using Lanes = __m512i;
  static CONVKERN_INLINE Lanes load_lanes(const int32_t* p) {
    return _mm512_cvtepi32_epi64(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
  }
  CONVKERN_INLINE Vec permuted(Lanes from) const { return {_mm512_permutexvar_pd(from, v)}; }
  CONVKERN_INLINE void store_unaligned(Real* p) const { _mm512_storeu_pd(p, v); }
  CONVKERN_INLINE void store_first(Real* p, int lanes) const {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << lanes) - 1), v);
  }
  static CONVKERN_INLINE Vec from_quarters(const Quarter (&q)[2]) {
    return {_mm512_insertf64x4(_mm512_castpd256_pd512(q[0]), q[1], 1)};
  }
  CONVKERN_INLINE void to_quarters(Quarter (&q)[2]) const {
    q[0] = _mm512_castpd512_pd256(v);
    q[1] = _mm512_extractf64x4_pd(v, 1);
  }
};

CONVKERN_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec larger_magnitude(Vec a, Vec b) {
  constexpr int kLargerMagnitude = 0b1011;  // sign bit 0; the larger of the absolute values
  return {_mm512_range_pd(a.v, b.v, kLargerMagnitude)};
}
CONVKERN_INLINE bool exceeds(Vec a, Vec b) {
  return _mm512_cmp_pd_mask(a.v, b.v, _CMP_NLE_UQ) != 0;
}
CONVKERN_INLINE LaneBits between(Vec a, Vec low, Vec high) {
  const __mmask8 above = _mm512_cmp_pd_mask(a.v, low.v, _CMP_NLE_UQ);
  return _mm512_mask_cmp_pd_mask(above, a.v, high.v, _CMP_NGE_UQ);
}
CONVKERN_INLINE Vec kept(Vec a, LaneBits bits) {
  return {_mm512_maskz_mov_pd(static_cast<__mmask8>(bits), a.v)};
}
CONVKERN_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_pd(a.v, b.v)}; }
CONVKERN_INLINE Vec bounded(Vec a, Vec low, Vec high) {
  return {_mm512_min_pd(high.v, _mm512_max_pd(low.v, a.v))};
}

CONVKERN_INLINE Vec held(Vec a) {
  asm("" : "+v"(a.v));
  return a;
}

CONVKERN_INLINE void transpose_quarters(Vec (&a)[4]) {
  const __m512d t0 = _mm512_unpacklo_pd(a[0].v, a[1].v);
  const __m512d t1 = _mm512_unpackhi_pd(a[0].v, a[1].v);
  const __m512d t2 = _mm512_unpacklo_pd(a[2].v, a[3].v);
  const __m512d t3 = _mm512_unpackhi_pd(a[2].v, a[3].v);
  a[0].v = __builtin_shufflevector(t0, t2, 0, 1, 8, 9, 4, 5, 12, 13);
  a[1].v = __builtin_shufflevector(t1, t3, 0, 1, 8, 9, 4, 5, 12, 13);
  a[2].v = __builtin_shufflevector(t0, t2, 2, 3, 10, 11, 6, 7, 14, 15);
  a[3].v = __builtin_shufflevector(t1, t3, 2, 3, 10, 11, 6, 7, 14, 15);
}

CONVKERN_INLINE void exchange_quarters(Vec (&a)[2]) {
  const __m512d low = _mm512_shuffle_f64x2(a[0].v, a[1].v, 0x44);
  a[1].v = _mm512_shuffle_f64x2(a[0].v, a[1].v, 0xee);
  a[0].v = low;
}

}  // namespace
}  // namespace convkern::cpu
