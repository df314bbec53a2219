// Roots of unity in the integers modulo p and their pairs (see mod.h), for Fourier transforms.
#pragma once

#include <cstdlib>

#include "cpu/simd/roots.h"
#include "mod.h"

namespace convkern::cpu {

constexpr Root<Mod> product(Root<Mod> a, Root<Mod> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
constexpr Root<Mod> power(Root<Mod> base, uint64_t exponent) {
  Root<Mod> result{1, 0};
  for (; exponent > 0; exponent /= 2, base = product(base, base)) {
    if (exponent % 2 == 1) result = product(result, base);
  }
  return result;
}

// A power of (11 + 60 i) / 61, whose norm is 1. All roots of unity here are powers of it: their
// orders divide kAllPoints, a multiple of the points of every transform. Of the elements with such
// powers, this one has small numbers, and its power for 4 points is i rather than -i.
constexpr int kAllPoints = 5760;
constexpr Root<Mod> kFirstRoot =
    power({Mod(11) / Mod(61), Mod(60) / Mod(61)}, (Mod::kPrime + 1) / kAllPoints);

template <>
constexpr Root<Mod> root<Mod>(int k, int n) {
  if (kAllPoints % n != 0) std::abort();  // there is no such root among them
  return power(kFirstRoot, kAllPoints / n * k);
}

}  // namespace convkern::cpu
