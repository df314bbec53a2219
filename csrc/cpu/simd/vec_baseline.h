// Vectors for any processor, with 4 lanes in 1 quarter, and the list of operations that every Vec
// has. They use the compiler's vector extensions (SSE2 on x86-64, NEON on AArch64). Their numbers
// are float64 if real_f64.h was included before, and float32 otherwise. Where comments of the
// algorithms count "floats", they mean numbers of either kind.
//
//   zero, broadcast, load, store       load and store need memory aligned to the vector
//   load_unaligned, store_unaligned    any memory
//   load_first(p, n)                   loads n <= kLanes lanes and sets the others to zero
//   store_first(p, n)                  stores n lanes and leaves the rest of memory as it is
//   load_lanes(p), permuted(lanes)     lane i of the result is lane p[i]; p must be aligned
//   from_quarters, to_quarters         a quarter is 4 adjacent lanes
//   add, sub, mul, fma(a, b, c) = a * b + c, fnma(a, b, c) = c - a * b
//   div                                a / b
//   bounded(a, low, high)              NaN stays NaN
//   rounded(a)                         the nearest integers (float32 only)
//   times_power_of_2(a, n)             a * 2^n for integers n (float32 only)
//   larger_magnitude(a, b)             the larger of a >= 0 and the magnitude of b; of NaN, either
//   exceeds(a, b)                      whether a is not at most b in some lane, as NaN is not
//   between(a, low, high)              bit i: whether low < a < high in lane i; true for NaN
//   kept(a, bits)                      a in the lanes whose bits are set, and zero in the others
//   held(a)                            keeps a in a register from here to its last use; without
//                                      it a compiler may load it from memory for each use
//   transpose_quarters(a)              transposes the 4x4 numbers in each quarter of a[0..3]
//   exchange_quarters(a)               exchanges quarter j of a[i] with quarter i of a[j]
//   kTiles                             see register_tiles.h
#pragma once

#include "cpu/simd/prelude.h"

#ifndef CONVKERN_REAL
#include "cpu/simd/real_f32.h"
#endif

namespace convkern::cpu {
namespace {

struct Vec {
  Quarter v;
  static constexpr int kLanes = 4;
  static constexpr RegisterTiles kTiles = baseline_tiles(sizeof(Quarter) / 16);

  static CONVKERN_INLINE Vec zero() { return {Quarter{}}; }
  static CONVKERN_INLINE Vec broadcast(const Real* p) { return {Quarter{*p, *p, *p, *p}}; }
  static CONVKERN_INLINE Vec load(const Real* p) {
    return {*static_cast<const Quarter*>(__builtin_assume_aligned(p, sizeof(Quarter)))};
  }
  CONVKERN_INLINE void store(Real* p) const {
    *static_cast<Quarter*>(__builtin_assume_aligned(p, sizeof(Quarter))) = v;
  }
  static CONVKERN_INLINE Vec load_unaligned(const Real* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static CONVKERN_INLINE Vec load_first(const Real* p, int lanes) {
    Vec r = zero();
    for (int i = 0; i < kLanes; ++i) {
      if (i < lanes) r.v[i] = p[i];
    }
    return r;
  }
  using Lanes = const int32_t*;
  static CONVKERN_INLINE Lanes load_lanes(const int32_t* p) { return p; }
  CONVKERN_INLINE Vec permuted(Lanes from) const {
    return {Quarter{v[from[0]], v[from[1]], v[from[2]], v[from[3]]}};
  }
  CONVKERN_INLINE void store_unaligned(Real* p) const { __builtin_memcpy(p, &v, sizeof(v)); }
  CONVKERN_INLINE void store_first(Real* p, int lanes) const {
    for (int i = 0; i < kLanes; ++i) {
      if (i < lanes) p[i] = v[i];
    }
  }
  static CONVKERN_INLINE Vec from_quarters(const Quarter (&q)[1]) { return {q[0]}; }
  CONVKERN_INLINE void to_quarters(Quarter (&q)[1]) const { q[0] = v; }
};

CONVKERN_INLINE Vec add(Vec a, Vec b) { return {a.v + b.v}; }
CONVKERN_INLINE Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
CONVKERN_INLINE Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
CONVKERN_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
CONVKERN_INLINE Vec fnma(Vec a, Vec b, Vec c) { return {c.v - a.v * b.v}; }
CONVKERN_INLINE Vec larger_magnitude(Vec a, Vec b) {
  const Quarter magnitude = b.v < 0 ? -b.v : b.v;
  return {a.v > magnitude ? a.v : magnitude};
}
CONVKERN_INLINE bool exceeds(Vec a, Vec b) {
  const auto within = a.v <= b.v;
  return !(within[0] && within[1] && within[2] && within[3]);
}
CONVKERN_INLINE LaneBits between(Vec a, Vec low, Vec high) {
  const auto outside = (a.v <= low.v) | (a.v >= high.v);
  LaneBits bits = 0;
  for (int i = 0; i < Vec::kLanes; ++i) bits |= LaneBits{outside[i] == 0} << i;
  return bits;
}
CONVKERN_INLINE Vec kept(Vec a, LaneBits bits) {
  Vec r;
  for (int i = 0; i < Vec::kLanes; ++i) {
    const Real either[] = {0, a.v[i]};  // a branch would be mispredicted half the time
    r.v[i] = either[bits >> i & 1];
  }
  return r;
}
CONVKERN_INLINE Vec div(Vec a, Vec b) { return {a.v / b.v}; }
CONVKERN_INLINE Vec bounded(Vec a, Vec low, Vec high) {
  const Quarter most = a.v > high.v ? high.v : a.v;
  return {most < low.v ? low.v : most};
}
CONVKERN_INLINE Vec rounded(Vec a) {
  Vec r;
  for (int i = 0; i < 4; ++i) r.v[i] = std::nearbyint(a.v[i]);
  return r;
}
CONVKERN_INLINE Vec times_power_of_2(Vec a, Vec n) {
  Vec r;
  for (int i = 0; i < 4; ++i) r.v[i] = std::ldexp(a.v[i], static_cast<int>(n.v[i]));
  return r;
}

CONVKERN_INLINE Vec held(Vec a) { return a; }

CONVKERN_INLINE void transpose_quarters(Vec (&a)[4]) {
  const Quarter t0 = __builtin_shufflevector(a[0].v, a[1].v, 0, 4, 1, 5);
  const Quarter t1 = __builtin_shufflevector(a[0].v, a[1].v, 2, 6, 3, 7);
  const Quarter t2 = __builtin_shufflevector(a[2].v, a[3].v, 0, 4, 1, 5);
  const Quarter t3 = __builtin_shufflevector(a[2].v, a[3].v, 2, 6, 3, 7);
  a[0].v = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
  a[1].v = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
  a[2].v = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
  a[3].v = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
}

CONVKERN_INLINE void exchange_quarters(Vec (&)[1]) {}

}  // namespace
}  // namespace convkern::cpu
