// Discrete Fourier transforms of a few points, whose numbers are vectors: every lane is transformed
// on its own. Points are in registers, and outputs in the order of their frequencies.
//
// Transforms of 6, 10 and 12 points are made of two whose sizes have no common factor, after Good
// and Thomas. Those of 9 and 16 points are made after Cooley and Tukey.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {
namespace fft {

struct Complex {
  Vec re, im;

  static CONVKERN_INLINE Complex zero() { return {Vec::zero(), Vec::zero()}; }
  static CONVKERN_INLINE Complex load(const Real* p) {
    return {Vec::load(p), Vec::load(p + kLanes)};
  }
  CONVKERN_INLINE void store(Real* p) const {
    re.store(p);
    im.store(p + kLanes);
  }
};
constexpr int64_t kComplex = 2 * kLanes;  // floats of a Complex in memory

CONVKERN_INLINE Complex add(const Complex& a, const Complex& b) {
  return {cpu::add(a.re, b.re), cpu::add(a.im, b.im)};
}
CONVKERN_INLINE Complex sub(const Complex& a, const Complex& b) {
  return {cpu::sub(a.re, b.re), cpu::sub(a.im, b.im)};
}
CONVKERN_INLINE Complex swapped(const Complex& a) { return {a.im, a.re}; }

// Returns a + i b and a - i b.
CONVKERN_INLINE Complex plus_i(const Complex& a, const Complex& b) {
  return {cpu::sub(a.re, b.im), cpu::add(a.im, b.re)};
}
CONVKERN_INLINE Complex minus_i(const Complex& a, const Complex& b) {
  return {cpu::add(a.re, b.im), cpu::sub(a.im, b.re)};
}

// Returns a * (re - i im).
CONVKERN_INLINE Complex times_conjugate(const Complex& a, const Vec& re, const Vec& im) {
  return {fma(a.re, re, mul(a.im, im)), fnma(a.re, im, mul(a.im, re))};
}

template <int k, int n>
constexpr Root<Real> kRoot = root<Real>(k, n);

// Adds on the units that only add.
struct Adders {
  static CONVKERN_INLINE Vec plus(const Vec& a, const Vec& b) { return cpu::add(a, b); }
  static CONVKERN_INLINE Vec minus(const Vec& a, const Vec& b) { return cpu::sub(a, b); }
};

// Adds on the units that multiply and add, which wait idly where there are many sums and few
// products. The results are the same.
struct Multipliers {
  Vec one;

  CONVKERN_INLINE Multipliers() {
    static constexpr Real kOne = 1;
    one = held(Vec::broadcast(&kOne));  // the compiler would add if it knew the number
  }
  CONVKERN_INLINE Vec plus(const Vec& a, const Vec& b) const { return cpu::fma(a, one, b); }
  CONVKERN_INLINE Vec minus(const Vec& a, const Vec& b) const { return cpu::fnma(b, one, a); }
};

// Transforms `points` points: z[k] becomes the sum of z[n] exp(-2 pi i n k / points) over n. Those
// that consist of transforms of 4 points add up to half of their numbers by `units`.
template <int points>
struct Dft;

template <>
struct Dft<2> {
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& = {}) {
    const Complex sum = add(z[0], z[1]);
    z[1] = sub(z[0], z[1]);
    z[0] = sum;
  }
};

template <>
struct Dft<3> {
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& = {}) {
    static constexpr Real kCos = kRoot<1, 3>.re, kSin = kRoot<1, 3>.im;
    const Complex sum = add(z[1], z[2]), difference = sub(z[1], z[2]);
    const Complex m{fma(kCos, sum.re, z[0].re), fma(kCos, sum.im, z[0].im)};
    z[0] = add(z[0], sum);
    z[1] = {fma(kSin, difference.im, m.re), fnma(kSin, difference.re, m.im)};
    z[2] = {fnma(kSin, difference.im, m.re), fma(kSin, difference.re, m.im)};
  }
};

template <>
struct Dft<4> {
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& units = {}) {
    const Complex even = add(z[0], z[2]), t = sub(z[0], z[2]);
    const Complex odd = add(z[1], z[3]);
    const Complex v{units.minus(z[1].re, z[3].re), units.minus(z[1].im, z[3].im)};
    z[0] = add(even, odd);
    z[2] = {units.minus(even.re, odd.re), units.minus(even.im, odd.im)};
    z[1] = {units.plus(t.re, v.im), units.minus(t.im, v.re)};
    z[3] = {units.minus(t.re, v.im), cpu::add(t.im, v.re)};
  }
};

template <>
struct Dft<5> {
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& = {}) {
    static constexpr Real kCos1 = kRoot<1, 5>.re, kSin1 = kRoot<1, 5>.im;
    static constexpr Real kCos2 = kRoot<2, 5>.re, kSin2 = kRoot<2, 5>.im;
    const Complex s1 = add(z[1], z[4]), s2 = add(z[2], z[3]);
    const Complex d1 = sub(z[1], z[4]), d2 = sub(z[2], z[3]);
    const Complex m1{fma(kCos2, s2.re, fma(kCos1, s1.re, z[0].re)),
                     fma(kCos2, s2.im, fma(kCos1, s1.im, z[0].im))};
    const Complex m2{fma(kCos1, s2.re, fma(kCos2, s1.re, z[0].re)),
                     fma(kCos1, s2.im, fma(kCos2, s1.im, z[0].im))};
    const Complex n1{fma(kSin2, d2.re, times(kSin1, d1.re)),
                     fma(kSin2, d2.im, times(kSin1, d1.im))};
    const Complex n2{fnma(kSin1, d2.re, times(kSin2, d1.re)),
                     fnma(kSin1, d2.im, times(kSin2, d1.im))};
    z[0] = add(z[0], add(s1, s2));
    z[1] = minus_i(m1, n1);
    z[4] = plus_i(m1, n1);
    z[2] = minus_i(m2, n2);
    z[3] = plus_i(m2, n2);
  }
};

template <>
struct Dft<8> {
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& units = {}) {
    static constexpr Real kHalf = kRoot<1, 8>.re;  // the square root of 1/2
    Complex e[4] = {z[0], z[2], z[4], z[6]}, o[4] = {z[1], z[3], z[5], z[7]};
    Dft<4>::run(e, units);
    Dft<4>::run(o, units);
    z[0] = add(e[0], o[0]);
    z[4] = sub(e[0], o[0]);
    z[2] = minus_i(e[2], o[2]);
    z[6] = plus_i(e[2], o[2]);
    const Vec p1 = cpu::add(o[1].re, o[1].im), q1 = cpu::sub(o[1].im, o[1].re);
    z[1] = {fma(kHalf, p1, e[1].re), fma(kHalf, q1, e[1].im)};
    z[5] = {fnma(kHalf, p1, e[1].re), fnma(kHalf, q1, e[1].im)};
    const Vec p3 = cpu::sub(o[3].im, o[3].re), q3 = cpu::add(o[3].im, o[3].re);
    z[3] = {fma(kHalf, p3, e[3].re), fnma(kHalf, q3, e[3].im)};
    z[7] = {fnma(kHalf, p3, e[3].re), fma(kHalf, q3, e[3].im)};
  }
};

// Transforms p * q points, where p and q have no common factor. No products are needed between the
// two transforms.
template <int p, int q>
struct CoprimeDft {
  static constexpr int inverse(int a, int n) {  // of a modulo n
    int i = 1;
    while (a * i % n != 1) ++i;
    return i;
  }
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& units = {}) {
    constexpr int n = p * q, kRow = q * inverse(q % p, p), kColumn = p * inverse(p % q, q);
    Complex rows[p][q];
#pragma GCC unroll 8
    for (int i = 0; i < p; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < q; ++j) rows[i][j] = z[(q * i + p * j) % n];
      Dft<q>::run(rows[i], units);
    }
#pragma GCC unroll 8
    for (int j = 0; j < q; ++j) {
      Complex column[p];
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) column[i] = rows[i][j];
      Dft<p>::run(column, units);
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) z[(kRow * i + kColumn * j) % n] = column[i];
    }
  }
};
template <>
struct Dft<6> : CoprimeDft<2, 3> {};
template <>
struct Dft<10> : CoprimeDft<2, 5> {};
template <>
struct Dft<12> : CoprimeDft<3, 4> {};

// Transforms p * p points.
template <int p>
struct SquareDft {
  template <int k>
  static CONVKERN_INLINE void turn(Complex& z) {
    static constexpr Root<Real> kFactor = kRoot<k, p * p>;
    z = times_conjugate(z, Vec::broadcast(&kFactor.re), Vec::broadcast(&kFactor.im));
  }
  template <int... at>
  static CONVKERN_INLINE void turn_all(Complex (&z)[p][p], std::integer_sequence<int, at...>) {
    (turn<(at / (p - 1) + 1) * (at % (p - 1) + 1)>(z[at / (p - 1) + 1][at % (p - 1) + 1]), ...);
  }
  template <class Units = Adders>
  static CONVKERN_INLINE void run(Complex* z, const Units& units = {}) {
    Complex parts[p][p];
#pragma GCC unroll 8
    for (int j = 0; j < p; ++j) {
#pragma GCC unroll 8
      for (int i = 0; i < p; ++i) parts[j][i] = z[p * i + j];
      Dft<p>::run(parts[j], units);
    }
    turn_all(parts, std::make_integer_sequence<int, (p - 1) * (p - 1)>());
#pragma GCC unroll 8
    for (int i = 0; i < p; ++i) {
      Complex column[p];
#pragma GCC unroll 8
      for (int j = 0; j < p; ++j) column[j] = parts[j][i];
      Dft<p>::run(column, units);
#pragma GCC unroll 8
      for (int k = 0; k < p; ++k) z[i + p * k] = column[k];
    }
  }
};
template <>
struct Dft<9> : SquareDft<3> {};
template <>
struct Dft<16> : SquareDft<4> {};

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
