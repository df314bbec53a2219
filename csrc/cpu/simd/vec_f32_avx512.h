// float32 vectors for AVX-512: 16 lanes in 4 quarters. vec_baseline.h lists the operations.
#pragma once

#include "cpu/simd/prelude.h"
#include "cpu/simd/real_f32.h"

namespace convkern::cpu {
namespace {

struct Vec {
  __m512 v;
  static constexpr int kLanes = 16;
  static constexpr RegisterTiles kTiles = kAvx512Tiles;

  static CONVKERN_INLINE Vec zero() { return {_mm512_setzero_ps()}; }
  static CONVKERN_INLINE Vec broadcast(const Real* p) {
    Real number;
    std::memcpy(&number, p, sizeof(number));  // two bfloat16 are aligned to 2 bytes only
    return {_mm512_set1_ps(number)};
  }
  static CONVKERN_INLINE Vec load(const Real* p) { return {_mm512_load_ps(p)}; }
  CONVKERN_INLINE void store(Real* p) const { _mm512_store_ps(p, v); }
  static CONVKERN_INLINE Vec load_unaligned(const Real* p) { return {_mm512_loadu_ps(p)}; }
  static CONVKERN_INLINE Vec load_first(const Real* p, int lanes) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1), p)};
  }
  using Lanes = __m512i;
  static CONVKERN_INLINE Lanes load_lanes(const int32_t* p) { return _mm512_load_si512(p); }
  CONVKERN_INLINE Vec permuted(Lanes from) const { return {_mm512_permutexvar_ps(from, v)}; }
  CONVKERN_INLINE void store_unaligned(Real* p) const { _mm512_storeu_ps(p, v); }
  CONVKERN_INLINE void store_first(Real* p, int lanes) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << lanes) - 1), v);
  }
  static CONVKERN_INLINE Vec from_quarters(const Quarter (&q)[4]) {
    __m512 r = _mm512_castps128_ps512(q[0]);
    r = _mm512_insertf32x4(r, q[1], 1);
    r = _mm512_insertf32x4(r, q[2], 2);
    return {_mm512_insertf32x4(r, q[3], 3)};
  }
  CONVKERN_INLINE void to_quarters(Quarter (&q)[4]) const {
    q[0] = _mm512_castps512_ps128(v);
    q[1] = _mm512_extractf32x4_ps(v, 1);
    q[2] = _mm512_extractf32x4_ps(v, 2);
    q[3] = _mm512_extractf32x4_ps(v, 3);
  }
};

CONVKERN_INLINE Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec larger_magnitude(Vec a, Vec b) {
  constexpr int kLargerMagnitude = 0b1011;  // sign bit 0; the larger of the absolute values
  return {_mm512_range_ps(a.v, b.v, kLargerMagnitude)};
}
CONVKERN_INLINE bool exceeds(Vec a, Vec b) {
  return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NLE_UQ) != 0;
}
CONVKERN_INLINE LaneBits between(Vec a, Vec low, Vec high) {
  const __mmask16 above = _mm512_cmp_ps_mask(a.v, low.v, _CMP_NLE_UQ);
  return _mm512_mask_cmp_ps_mask(above, a.v, high.v, _CMP_NGE_UQ);
}
CONVKERN_INLINE Vec kept(Vec a, LaneBits bits) {
  return {_mm512_maskz_mov_ps(static_cast<__mmask16>(bits), a.v)};
}
CONVKERN_INLINE Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec bounded(Vec a, Vec low, Vec high) {
  return {_mm512_min_ps(high.v, _mm512_max_ps(low.v, a.v))};
}
CONVKERN_INLINE Vec rounded(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
CONVKERN_INLINE Vec times_power_of_2(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }

CONVKERN_INLINE Vec held(Vec a) {
  asm("" : "+v"(a.v));
  return a;
}

CONVKERN_INLINE void transpose_quarters(Vec (&a)[4]) {
  const __m512d t0 = _mm512_castps_pd(_mm512_unpacklo_ps(a[0].v, a[1].v));
  const __m512d t1 = _mm512_castps_pd(_mm512_unpackhi_ps(a[0].v, a[1].v));
  const __m512d t2 = _mm512_castps_pd(_mm512_unpacklo_ps(a[2].v, a[3].v));
  const __m512d t3 = _mm512_castps_pd(_mm512_unpackhi_ps(a[2].v, a[3].v));
  a[0].v = _mm512_castpd_ps(_mm512_unpacklo_pd(t0, t2));
  a[1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(t0, t2));
  a[2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(t1, t3));
  a[3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(t1, t3));
}

CONVKERN_INLINE void exchange_quarters(Vec (&a)[4]) {
  const __m512 t0 = _mm512_shuffle_f32x4(a[0].v, a[1].v, 0x44);  // quarters 0 1 of each
  const __m512 t1 = _mm512_shuffle_f32x4(a[0].v, a[1].v, 0xee);  // quarters 2 3 of each
  const __m512 t2 = _mm512_shuffle_f32x4(a[2].v, a[3].v, 0x44);
  const __m512 t3 = _mm512_shuffle_f32x4(a[2].v, a[3].v, 0xee);
  a[0].v = _mm512_shuffle_f32x4(t0, t2, 0x88);
  a[1].v = _mm512_shuffle_f32x4(t0, t2, 0xdd);
  a[2].v = _mm512_shuffle_f32x4(t1, t3, 0x88);
  a[3].v = _mm512_shuffle_f32x4(t1, t3, 0xdd);
}

// Numbers of 16 bits in memory. Stores round to nearest even.
CONVKERN_INLINE Vec load_vector(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
CONVKERN_INLINE void store_vector(Half* p, Vec v) {
  const __m256i halves = _mm512_cvtps_ph(v.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
}
CONVKERN_INLINE Vec load_vector(const BFloat16* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
CONVKERN_INLINE void store_vector(BFloat16* p, Vec v) {
  const __m512i bits = _mm512_castps_si512(v.v), nan = _mm512_set1_epi32(kBFloat16NaN);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  sum = _mm512_mask_mov_epi32(sum, _mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q), nan);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(sum, 16)));
}

}  // namespace
}  // namespace convkern::cpu
