// Fourier transforms of a table of sizes, as stages that the passes of fft put together.
//
// A transform of A * B points takes two sweeps over memory in the L1 cache. The outer one
// transforms the A points that are B apart and multiplies by the twiddle factors. The inner one
// transforms groups of B adjacent points. Frequency k1 + A * k2 is then at position k1 * B + k2,
// where it stays: products do not depend on the order of the positions, and the inverse takes the
// same sweeps backwards. It exchanges real and imaginary parts, which turns a transform into the
// inverse.
//
// Two real sequences are transformed as the real and imaginary parts of a complex one. Their
// spectra are then separated. Only one of the frequencies f and -f is kept, because those of a real
// sequence are conjugate: `kept()` of them.
#pragma once

#include "cpu/algos/fft/radix-inl.h"

namespace convkern::cpu {
namespace {
namespace fft {

// A complex sequence in memory. Its elements are `step` floats apart, and their imaginary parts are
// `imaginary` floats behind the real parts.
struct Sequence {
  Real* at;
  int64_t step, imaginary;

  CONVKERN_INLINE Complex load(int64_t e) const {
    const Real* p = at + e * step;
    return {Vec::load(p), Vec::load(p + imaginary)};
  }
  CONVKERN_INLINE void store(int64_t e, const Complex& z) const {
    Real* p = at + e * step;
    z.re.store(p);
    z.im.store(p + imaginary);
  }
};

// A spectrum is the sum over `terms` of products: spectrum i of `values` times spectrum i of
// `taps`. The numbers of a tap are single numbers for all lanes. Steps are in floats.
struct Products {
  const Real* values;
  int64_t value_step;
  const Real* taps;
  int64_t tap_step;
  int64_t terms;
};

constexpr int kParts = 5;  // stages are compiled for so many lengths of a sequence

// The stages of a transform. `work` has room for all of its points, and passes numbers from one
// stage to the next. Only elements below groups * B are read or written, where `groups` is that of
// the stage's index. The three numbers of a Sequence are passed as arguments, because a function
// would have to load a struct of this size from memory.
struct Transform {
  int points;
  int elements[kParts];  // groups * B
  void (*outer[kParts])(Real* at, int64_t step, int64_t imaginary, Real* work);
  void (*outer_inverse[kParts])(Real* at, int64_t step, int64_t imaginary, const Real* work);
  // Completes a transform.
  void (*inner)(const Real* work, Real* spectrum);
  // Completes a transform, and adds the products of `values` and the conjugate result to `sums`.
  void (*add_products)(const Real* work, const Real* values, Real* sums);
  // Completes the transform of two real sequences, whose spectra are doubled.
  void (*separate)(const Real* work, Real* first, Real* second);
  // Begins the inverse of two real sequences.
  void (*join)(const Real* first, const Real* second, Real* work);
  // Begins the inverse of one spectrum.
  void (*inner_inverse)(const Real* spectrum, Real* work);
  // Begins the inverse of products. The index says whether taps are conjugated.
  void (*multiply[2])(const Products& products, Real* work);
  // Completes a transform, multiplies it by a spectrum and begins the inverse. The first index says
  // whether taps are vectors, and the second whether they are conjugated.
  void (*multiply_one[2][2])(const Real* taps, Real* work);

  // Begins a transform, and completes an inverse, by the stages of index `part`.
  void begin(int part, const Sequence& from, Real* work) const {
    outer[part](from.at, from.step, from.imaginary, work);
  }
  void complete_inverse(int part, const Real* work, const Sequence& to) const {
    outer_inverse[part](to.at, to.step, to.imaginary, work);
  }

  int64_t kept() const { return points / 2 + 1; }
  // Returns the index of the shortest stage that reaches the elements [0, end).
  int part(int64_t end) const {
    int part = 0;
    while (elements[part] < end) ++part;
    return part;
  }
  // Returns how many elements that stage reads or writes.
  int64_t reached(int64_t end) const { return elements[part(end)]; }
};

template <int A, int B>
struct Stages {
  static constexpr int kPoints = A * B;
  // Half of the points, and all but a few: common images leave less than half of a period unused.
  static constexpr int groups(int part) {
    return part == 0 ? A / 2 : std::max(A / 2, A - kParts + 1 + part);
  }

  struct Twiddles {
    Root<Real> factor[B][A];
  };
  static constexpr Twiddles twiddles() {
    Twiddles result{};
    for (int b = 0; b < B; ++b) {
      for (int a = 0; a < A; ++a) result.factor[b][a] = root<Real>(a * b, kPoints);
    }
    return result;
  }
  static constexpr Twiddles kTwiddles = twiddles();

  static CONVKERN_INLINE Complex turned(const Complex& z, const Root<Real>& factor) {
    return times_conjugate(z, Vec::broadcast(&factor.re), Vec::broadcast(&factor.im));
  }

  template <int part>
  static void outer(Real* at, int64_t step, int64_t imaginary, Real* work) {
    const Sequence from{at, step, imaginary};
#pragma GCC unroll 1
    for (int b = 0; b < B; ++b) {
      Complex z[A];
#pragma GCC unroll 16
      for (int a = 0; a < A; ++a) {
        z[a] = a < groups(part) ? from.load(b + B * a) : Complex::zero();
      }
      Dft<A>::run(z);
      z[0].store(work + b * kComplex);
#pragma GCC unroll 16
      for (int a = 1; a < A; ++a) {
        turned(z[a], kTwiddles.factor[b][a]).store(work + (a * B + b) * kComplex);
      }
    }
  }

  template <int part>
  static void outer_inverse(Real* at, int64_t step, int64_t imaginary, const Real* work) {
    const Sequence to{at, step, imaginary};
    const Multipliers units;
#pragma GCC unroll 1
    for (int b = 0; b < B; ++b) {
      Complex z[A];
#pragma GCC unroll 16
      for (int a = 0; a < A; ++a) z[a] = Complex::load(work + (a * B + b) * kComplex);
      Dft<A>::run(z, units);
#pragma GCC unroll 16
      for (int a = 0; a < A; ++a) {
        if (a < groups(part)) to.store(b + B * a, swapped(z[a]));
      }
    }
  }

  static CONVKERN_INLINE void inner_group(const Real* work, int k, Complex (&z)[B],
                                          const Multipliers& units) {
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) z[b] = Complex::load(work + (k * B + b) * kComplex);
    Dft<B>::run(z, units);
  }
  static CONVKERN_INLINE void inverse_group(Complex (&z)[B], int k, Real* work) {
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) z[b] = swapped(z[b]);
    Dft<B>::run(z);
    z[0].store(work + k * B * kComplex);
#pragma GCC unroll 16
    for (int b = 1; b < B; ++b) {
      turned(z[b], kTwiddles.factor[b][k]).store(work + (k * B + b) * kComplex);
    }
  }

  static void inner(const Real* work, Real* spectrum) {
    const Multipliers units;
#pragma GCC unroll 1
    for (int k = 0; k < A; ++k) {
      Complex z[B];
      inner_group(work, k, z, units);
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) z[b].store(spectrum + (k * B + b) * kComplex);
    }
  }
  static void add_products(const Real* work, const Real* values, Real* sums) {
    const Multipliers units;
#pragma GCC unroll 1
    for (int k = 0; k < A; ++k, values += B * kComplex, sums += B * kComplex) {
      Complex z[B];
      inner_group(work, k, z, units);
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) {
        const Complex v = Complex::load(values + b * kComplex);
        const Complex sum = Complex::load(sums + b * kComplex);
        const Vec re = fma(v.re, z[b].re, sum.re), im = fma(v.im, z[b].re, sum.im);
        Complex{fma(v.im, z[b].im, re), fnma(v.re, z[b].im, im)}.store(sums + b * kComplex);
      }
    }
  }
  static void inner_inverse(const Real* spectrum, Real* work) {
#pragma GCC unroll 1
    for (int k = 0; k < A; ++k) {
      Complex z[B];
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) z[b] = Complex::load(spectrum + (k * B + b) * kComplex);
      inverse_group(z, k, work);
    }
  }

  // The mirror of position k * B + b is (A - k) * B + B - 1 - b, or (B - b) % B in group 0. Kept
  // are the groups 1 to kPairs, then half of the group A / 2 if A is even, then half of group 0.
  static constexpr int kPairs = (A - 1) / 2, kMiddle = A % 2 == 0 ? (B + 1) / 2 : 0;
  static constexpr int kFirst = kPairs * B + kMiddle;  // the place of frequency 0
  static_assert(kFirst + B / 2 + 1 == kPoints / 2 + 1);

  static void separate(const Real* work, Real* first, Real* second) {
    const auto split = [&](int64_t kept, const Complex& z,
                           const Complex& mirror) CONVKERN_INLINE_LAMBDA {
      Complex{cpu::add(z.re, mirror.re), cpu::sub(z.im, mirror.im)}.store(first + kept * kComplex);
      Complex{cpu::add(z.im, mirror.im), cpu::sub(mirror.re, z.re)}.store(second + kept * kComplex);
    };
    const Multipliers units;
    Complex z[B], mirror[B];
#pragma GCC unroll 1
    for (int k = 1; k <= kPairs; ++k) {
      inner_group(work, k, z, units);
      inner_group(work, A - k, mirror, units);
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) split(B * (k - 1) + b, z[b], mirror[B - 1 - b]);
    }
    if (A % 2 == 0) {
      inner_group(work, A / 2, z, units);
#pragma GCC unroll 16
      for (int b = 0; b < kMiddle; ++b) split(kPairs * B + b, z[b], z[B - 1 - b]);
    }
    inner_group(work, 0, z, units);
#pragma GCC unroll 16
    for (int b = 0; b <= B / 2; ++b) split(kFirst + b, z[b], z[(B - b) % B]);
  }

  static void join(const Real* first, const Real* second, Real* work) {
    const auto merge = [&](int64_t kept, Complex& z, Complex& mirror) CONVKERN_INLINE_LAMBDA {
      const Complex a = Complex::load(first + kept * kComplex);
      const Complex b = Complex::load(second + kept * kComplex);
      mirror = {cpu::add(a.re, b.im), cpu::sub(b.re, a.im)};
      z = {cpu::sub(a.re, b.im), cpu::add(a.im, b.re)};
    };
    Complex z[B], mirror[B];
#pragma GCC unroll 1
    for (int k = 1; k <= kPairs; ++k) {
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) merge(B * (k - 1) + b, z[b], mirror[B - 1 - b]);
      inverse_group(z, k, work);
      inverse_group(mirror, A - k, work);
    }
    if (A % 2 == 0) {
#pragma GCC unroll 16
      for (int b = 0; b < kMiddle; ++b) merge(kPairs * B + b, z[b], z[B - 1 - b]);
      inverse_group(z, A / 2, work);
    }
#pragma GCC unroll 16
    for (int b = 0; b <= B / 2; ++b) merge(kFirst + b, z[b], z[(B - b) % B]);
    inverse_group(z, 0, work);
  }

  // A tap, which is a vector of complex numbers or one number for all lanes.
  template <bool kVectors>
  struct Tap {
    static constexpr int64_t kFloats = kVectors ? 2 * kLanes : 2;
    Vec re, im;

    explicit CONVKERN_INLINE Tap(const Real* p) {
      re = kVectors ? Vec::load(p) : Vec::broadcast(p);
      im = kVectors ? Vec::load(p + kLanes) : Vec::broadcast(p + 1);
    }
    template <bool kConjugate>
    CONVKERN_INLINE Complex times(const Complex& z) const {
      if (kConjugate) return times_conjugate(z, re, im);
      return {fnma(z.im, im, mul(z.re, re)), fma(z.re, im, mul(z.im, re))};
    }
    template <bool kConjugate>
    CONVKERN_INLINE Complex times_plus(const Complex& z, const Complex& sum) const {
      const Vec a = fma(z.re, re, sum.re), b = fma(z.im, re, sum.im);
      if (kConjugate) return {fma(z.im, im, a), fnma(z.re, im, b)};
      return {fnma(z.im, im, a), fma(z.re, im, b)};
    }
  };

  template <bool kVectors, bool kConjugate>
  static void multiply_one(const Real* taps, Real* work) {
    using T = Tap<kVectors>;
    const Multipliers units;
#pragma GCC unroll 1
    for (int k = 0; k < A; ++k) {
      Complex z[B];
      inner_group(work, k, z, units);
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) {
        z[b] = T(taps + (k * B + b) * T::kFloats).template times<kConjugate>(z[b]);
      }
      inverse_group(z, k, work);
    }
  }

  template <bool kConjugate>
  static void multiply(const Products& products, Real* work) {
    using T = Tap</*kVectors=*/false>;
#pragma GCC unroll 1
    for (int k = 0; k < A; ++k) {
      const Real* values = products.values + k * B * kComplex;
      const Real* taps = products.taps + k * B * T::kFloats;
      Complex z[B];
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) {
        const T tap(taps + b * T::kFloats);
        z[b] = tap.template times<kConjugate>(Complex::load(values + b * kComplex));
      }
      for (int64_t term = 1; term < products.terms; ++term) {
        values += products.value_step;
        taps += products.tap_step;
#pragma GCC unroll 16
        for (int b = 0; b < B; ++b) {
          const T tap(taps + b * T::kFloats);
          z[b] = tap.template times_plus<kConjugate>(Complex::load(values + b * kComplex), z[b]);
        }
      }
      inverse_group(z, k, work);
    }
  }
};

template <int A, int B>
constexpr Transform stages() {
  using S = Stages<A, B>;
  return {A * B,
          {S::groups(0) * B, S::groups(1) * B, S::groups(2) * B, S::groups(3) * B, A * B},
          {S::template outer<0>, S::template outer<1>, S::template outer<2>, S::template outer<3>,
           S::template outer<4>},
          {S::template outer_inverse<0>, S::template outer_inverse<1>, S::template outer_inverse<2>,
           S::template outer_inverse<3>, S::template outer_inverse<4>},
          S::inner,
          S::add_products,
          S::separate,
          S::join,
          S::inner_inverse,
          {S::template multiply<false>, S::template multiply<true>},
          {{S::template multiply_one<false, false>, S::template multiply_one<false, true>},
           {S::template multiply_one<true, false>, S::template multiply_one<true, true>}}};
}

// The transforms for the sizes kFftPoints. Points in registers bound both factors: a group of 8
// fills half of 32 registers.
constexpr Transform kTransforms[] = {
    stages<4, 4>(),  stages<6, 4>(),  stages<8, 4>(),  stages<9, 4>(),
    stages<8, 5>(),  stages<8, 6>(),  stages<8, 8>(),  stages<9, 8>(),
    stages<10, 8>(), stages<12, 8>(), stages<16, 8>(),
};
constexpr bool have_all_sizes() {
  static_assert(std::size(kTransforms) == std::size(kFftPoints));
  for (size_t i = 0; i < std::size(kFftPoints); ++i) {
    if (kTransforms[i].points != kFftPoints[i]) return false;
  }
  return true;
}
static_assert(have_all_sizes());

}  // namespace fft
}  // namespace
}  // namespace convkern::cpu
