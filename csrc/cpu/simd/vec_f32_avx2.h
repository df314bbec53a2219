// float32 vectors for AVX2 and FMA: 8 lanes in 2 quarters. vec_baseline.h lists the operations.
#pragma once

#include "cpu/simd/prelude.h"
#include "cpu/simd/real_f32.h"

namespace convkern::cpu {
namespace {

struct Vec {
  __m256 v;
  static constexpr int kLanes = 8;
  static constexpr RegisterTiles kTiles = kAvx2Tiles;

  static CONVKERN_INLINE Vec zero() { return {_mm256_setzero_ps()}; }
  static CONVKERN_INLINE Vec broadcast(const Real* p) { return {_mm256_broadcast_ss(p)}; }
  static CONVKERN_INLINE Vec load(const Real* p) { return {_mm256_load_ps(p)}; }
  CONVKERN_INLINE void store(Real* p) const { _mm256_store_ps(p, v); }
  static CONVKERN_INLINE Vec load_unaligned(const Real* p) { return {_mm256_loadu_ps(p)}; }
  static CONVKERN_INLINE __m256i first(int lanes) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), lane);
  }
  static CONVKERN_INLINE Vec load_first(const Real* p, int lanes) {
    return {_mm256_maskload_ps(p, first(lanes))};
  }
  using Lanes = __m256i;
  static CONVKERN_INLINE Lanes load_lanes(const int32_t* p) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
  }
  CONVKERN_INLINE Vec permuted(Lanes from) const { return {_mm256_permutevar8x32_ps(v, from)}; }
  CONVKERN_INLINE void store_unaligned(Real* p) const { _mm256_storeu_ps(p, v); }
  CONVKERN_INLINE void store_first(Real* p, int lanes) const {
    _mm256_maskstore_ps(p, first(lanes), v);
  }
  static CONVKERN_INLINE Vec from_quarters(const Quarter (&q)[2]) {
    return {_mm256_set_m128(q[1], q[0])};
  }
  CONVKERN_INLINE void to_quarters(Quarter (&q)[2]) const {
    q[0] = _mm256_castps256_ps128(v);
    q[1] = _mm256_extractf128_ps(v, 1);
  }
};

CONVKERN_INLINE Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
CONVKERN_INLINE Vec larger_magnitude(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, _mm256_andnot_ps(_mm256_set1_ps(-0.0), b.v))};
}
CONVKERN_INLINE bool exceeds(Vec a, Vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_NLE_UQ)) != 0;
}
CONVKERN_INLINE LaneBits between(Vec a, Vec low, Vec high) {
  const __m256 above = _mm256_cmp_ps(a.v, low.v, _CMP_NLE_UQ);
  const __m256 below = _mm256_cmp_ps(a.v, high.v, _CMP_NGE_UQ);
  return static_cast<LaneBits>(_mm256_movemask_ps(_mm256_and_ps(above, below)));
}
CONVKERN_INLINE Vec kept(Vec a, LaneBits bits) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane);
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane)))};
}
CONVKERN_INLINE Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
CONVKERN_INLINE Vec bounded(Vec a, Vec low, Vec high) {
  return {_mm256_min_ps(high.v, _mm256_max_ps(low.v, a.v))};
}
CONVKERN_INLINE Vec rounded(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
CONVKERN_INLINE Vec times_power_of_2(Vec a, Vec n) {
  // The power is multiplied in two halves, because it may itself exceed the range of floats.
  const __m256i whole = _mm256_cvtps_epi32(n.v), one = _mm256_set1_epi32(127);
  const __m256i first = _mm256_srai_epi32(whole, 1), second = _mm256_sub_epi32(whole, first);
  const __m256i bits[] = {_mm256_slli_epi32(_mm256_add_epi32(first, one), 23),
                          _mm256_slli_epi32(_mm256_add_epi32(second, one), 23)};
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(bits[0])),
                        _mm256_castsi256_ps(bits[1]))};
}

CONVKERN_INLINE Vec held(Vec a) {
  asm("" : "+x"(a.v));
  return a;
}

CONVKERN_INLINE void transpose_quarters(Vec (&a)[4]) {
  const __m256d t0 = _mm256_castps_pd(_mm256_unpacklo_ps(a[0].v, a[1].v));
  const __m256d t1 = _mm256_castps_pd(_mm256_unpackhi_ps(a[0].v, a[1].v));
  const __m256d t2 = _mm256_castps_pd(_mm256_unpacklo_ps(a[2].v, a[3].v));
  const __m256d t3 = _mm256_castps_pd(_mm256_unpackhi_ps(a[2].v, a[3].v));
  a[0].v = _mm256_castpd_ps(_mm256_unpacklo_pd(t0, t2));
  a[1].v = _mm256_castpd_ps(_mm256_unpackhi_pd(t0, t2));
  a[2].v = _mm256_castpd_ps(_mm256_unpacklo_pd(t1, t3));
  a[3].v = _mm256_castpd_ps(_mm256_unpackhi_pd(t1, t3));
}

CONVKERN_INLINE void exchange_quarters(Vec (&a)[2]) {
  const __m256 low = _mm256_permute2f128_ps(a[0].v, a[1].v, 0x20);
  a[1].v = _mm256_permute2f128_ps(a[0].v, a[1].v, 0x31);
  a[0].v = low;
}

// Numbers of 16 bits in memory. Stores round to nearest even.
CONVKERN_INLINE Vec load_vector(const Half* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
CONVKERN_INLINE void store_vector(Half* p, Vec v) {
  const __m128i halves = _mm256_cvtps_ph(v.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
}
CONVKERN_INLINE Vec load_vector(const BFloat16* p) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16))};
}
CONVKERN_INLINE void store_vector(BFloat16* p, Vec v) {
  const __m256i bits = _mm256_castps_si256(v.v), nan = _mm256_set1_epi32(kBFloat16NaN);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v.v, v.v, _CMP_UNORD_Q));
  sum = _mm256_srli_epi32(_mm256_blendv_epi8(sum, nan, is_nan), 16);
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(sum, sum), 0b1000);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(halves));
}

}  // namespace
}  // namespace convkern::cpu
