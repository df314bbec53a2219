// Vectors of integers modulo p replace those of an instruction set. They have the same lanes and
// tiles, so that the algorithms divide their work in the same way. CONVKERN_MOD_DTYPE, _LANES and
// _TILES select them. vec_baseline.h lists the operations.
#pragma once

#include <cstdlib>

#include "cpu/simd/prelude.h"
#include "lanes.h"
#include "roots_mod.h"

// Without optimisation, code that is inlined takes long to compile and is no faster.
#undef CONVKERN_INLINE
#undef CONVKERN_INLINE_LAMBDA
#define CONVKERN_INLINE inline
#define CONVKERN_INLINE_LAMBDA

// The operations are optimised, as those of lanes.h are. The algorithms that follow are not.
#pragma GCC push_options
#pragma GCC optimize("O2")

namespace convkern::cpu {
namespace {

using Real = Mod;
constexpr DType kDType = DType::CONVKERN_MOD_DTYPE;

struct Quarter {
  Mod lanes[4];
  Mod& operator[](int lane) { return lanes[lane]; }
  Quarter& operator+=(const Quarter& other) {
    add_lanes(lanes, other.lanes, 4);
    return *this;
  }
};

struct Vec {
  static constexpr int kLanes = CONVKERN_MOD_LANES;
  static constexpr RegisterTiles kTiles = CONVKERN_MOD_TILES;
  static constexpr int kQuarters = kLanes / 4;
  Mod lanes[kLanes];

  static Vec zero() { return {}; }
  static Vec broadcast(const Real* p) {
    Vec r;
    fill_lanes(r.lanes, *p, kLanes);
    return r;
  }
  static Vec load(const Real* p) { return load_first(p, kLanes); }
  void store(Real* p) const { store_first(p, kLanes); }
  static Vec load_unaligned(const Real* p) { return load_first(p, kLanes); }
  static Vec load_first(const Real* p, int n) {
    Vec r = zero();
    std::memcpy(r.lanes, p, n * sizeof(Real));
    return r;
  }
  using Lanes = const int32_t*;
  static Lanes load_lanes(const int32_t* p) { return p; }
  Vec permuted(Lanes from) const {
    Vec r;
    for (int i = 0; i < kLanes; ++i) r.lanes[i] = lanes[from[i]];
    return r;
  }
  void store_unaligned(Real* p) const { store_first(p, kLanes); }
  void store_first(Real* p, int n) const { std::memcpy(p, lanes, n * sizeof(Real)); }
  static Vec from_quarters(const Quarter (&q)[kQuarters]) { return load(q[0].lanes); }
  void to_quarters(Quarter (&q)[kQuarters]) const { store(q[0].lanes); }
};

inline Vec add(Vec a, const Vec& b) {
  add_lanes(a.lanes, b.lanes, Vec::kLanes);
  return a;
}
inline Vec sub(Vec a, const Vec& b) {
  subtract_lanes(a.lanes, b.lanes, Vec::kLanes);
  return a;
}
inline Vec fma(const Vec& a, const Vec& b, Vec c) {
  add_products(c.lanes, a.lanes, b.lanes, Vec::kLanes);
  return c;
}
inline Vec mul(Vec a, const Vec& b) {
  multiply_lanes(a.lanes, b.lanes, Vec::kLanes);
  return a;
}
inline Vec fnma(const Vec& a, const Vec& b, Vec c) {
  subtract_products(c.lanes, a.lanes, b.lanes, Vec::kLanes);
  return c;
}
// Integers modulo p have no order. These serve the checks that send operands or results to the
// direct sum, and never do. But numbers that were never written are seen: they spread through
// larger_magnitude(), which adds instead.
inline Vec larger_magnitude(const Vec& a, const Vec& b) { return add(a, b); }
inline bool exceeds(const Vec& a, const Vec& b) {
  judge_lanes(a.lanes, Vec::kLanes);
  judge_lanes(b.lanes, Vec::kLanes);
  return false;
}
// Activations are not certified, because integers modulo p have no order.
inline Vec bounded(const Vec&, const Vec&, const Vec&) { std::abort(); }
inline Vec held(const Vec& a) { return a; }

inline void transpose_quarters(Vec (&a)[4]) {
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < i; ++j) {
      for (int q = 0; q < Vec::kLanes; q += 4) std::swap(a[i].lanes[q + j], a[j].lanes[q + i]);
    }
  }
}
inline void exchange_quarters(Vec (&a)[Vec::kQuarters]) {
  for (int i = 0; i < Vec::kQuarters; ++i) {
    for (int j = 0; j < i; ++j) {
      std::swap_ranges(a[i].lanes + 4 * j, a[i].lanes + 4 * j + 4, a[j].lanes + 4 * i);
    }
  }
}

}  // namespace
}  // namespace convkern::cpu

#pragma GCC pop_options
