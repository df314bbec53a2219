// Checks the arithmetic of mod.h and the roots of unity when it is compiled.
#include "mod.h"

#include <initializer_list>

#include "cpu/fft_size.h"
#include "roots_mod.h"

namespace convkern {
namespace {

using Wide = unsigned __int128;
constexpr uint64_t kPrime = Mod::kPrime;

constexpr uint64_t remainder(Wide number) { return static_cast<uint64_t>(number % kPrime); }

// The test of Miller and Rabin. No composite number below 2^64 passes it for the bases 2 to 37
// (Sorenson and Webster, Mathematics of Computation 86, 2017).
constexpr bool is_prime() {
  int twos = 0;
  uint64_t odd = kPrime - 1;
  for (; odd % 2 == 0; odd /= 2) ++twos;
  for (const uint64_t base : {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37}) {
    uint64_t power = 1, square = base;
    for (uint64_t exponent = odd; exponent > 0; exponent /= 2) {
      if (exponent % 2 == 1) power = remainder(Wide{power} * square);
      square = remainder(Wide{square} * square);
    }
    bool passes = power == 1;
    for (int i = 0; i < twos && !passes; ++i) {
      passes = power == kPrime - 1;
      power = remainder(Wide{power} * power);
    }
    if (!passes) return false;
  }
  return true;
}
static_assert(is_prime());
static_assert(kPrime < uint64_t{1} << 61 && kPrime % 4 == 3);
static_assert((kPrime + 1) % cpu::kAllPoints == 0);

// Calls check(number) for numbers below 2^125, near each power of 2 and near a multiple of p there.
// Returns whether all pass.
template <class Check>
constexpr bool for_many_numbers(const Check& check) {
  for (int bit = 0; bit < 125; ++bit) {
    const Wide power = Wide{1} << bit, multiple = power / kPrime * kPrime;
    for (const Wide base : {power, multiple}) {
      for (int i = -2; i <= 2; ++i) {
        const Wide number = base + static_cast<Wide>(i);
        if (number >> 125 == 0 && !check(number)) return false;
      }
    }
  }
  return true;
}
static_assert(for_many_numbers([](Wide number) {
  return Mod::reduced(number, 0).value == remainder(number);
}));

constexpr Mod element(uint64_t value) {
  Mod result;
  result.value = value;
  return result;
}
constexpr bool arithmetic_is_right() {
  return for_many_numbers([](Wide number) {
    // Two numbers and their difference are often near 0 or p.
    const uint64_t a = remainder(number), b = remainder(number >> 64 ^ number);
    const uint64_t c = kPrime - 1 - a;
    return (element(a) + element(b)).value == remainder(Wide{a} + b) &&
           (element(a) - element(b)).value == remainder(Wide{a} + kPrime - b) &&
           fma(element(a), element(b), element(c)).value == remainder(Wide{a} * b + c) &&
           (element(a) * element(c)).value == remainder(Wide{a} * c);
  });
}
static_assert(arithmetic_is_right());
static_assert(Mod(1) / Mod(24) * Mod(24) == Mod(1) && Mod(-1) + Mod(1) == Mod(0));
static_assert(Mod(-3).value == kPrime - 3 && Mod(1 << 30).value == uint64_t{1} << 30);

// A number that was never written spreads, also through a product with zero.
constexpr bool spreads() {
  const Mod unwritten = element(UINT64_MAX);
  for (const Mod number : {Mod(0), Mod(1), Mod(-1), unwritten}) {
    for (const Mod result :
         {number + unwritten, unwritten + number, number - unwritten, unwritten - number,
          number * unwritten, unwritten * number, fma(number, number, unwritten)}) {
      if ((result.value & Mod::kUnwritten) == 0) return false;
    }
  }
  return true;
}
static_assert(spreads());

constexpr bool same(const cpu::Root<Mod>& a, const cpu::Root<Mod>& b) {
  return a.re == b.re && a.im == b.im;
}
// Returns whether the n-th roots are the powers of one whose order is n, and the inverse of each is
// its conjugate.
constexpr bool roots_are_right(int n) {
  cpu::Root<Mod> expected{1, 0};
  for (int k = 0; k < n; ++k) {
    const cpu::Root<Mod> root = cpu::root<Mod>(k, n), mirror = cpu::root<Mod>(n - k, n);
    if (!same(root, expected) || !same(mirror, {root.re, Mod(0) - root.im})) return false;
    if (!(root.re * root.re + root.im * root.im == Mod(1))) return false;
    if (k > 0 && same(root, {1, 0})) return false;
    expected = product(expected, cpu::root<Mod>(1, n));
  }
  return same(expected, {1, 0});
}
constexpr bool all_roots_are_right() {
  for (const int n : {2, 3, 4, 5, 6, 8, 9, 10, 12, 16}) {  // the parts of transforms
    if (!roots_are_right(n)) return false;
  }
  for (const int n : cpu::kFftPoints) {
    if (!roots_are_right(n)) return false;
  }
  return true;
}
static_assert(all_roots_are_right());
static_assert(same(cpu::root<Mod>(1, 4), {0, 1}));
static_assert(cpu::root<Mod>(1, 8).re == cpu::root<Mod>(1, 8).im);
static_assert(cpu::root<Mod>(1, 6).re * 2 == Mod(1));
// Roots of different sizes agree, as the powers of one root.
static_assert(same(cpu::root<Mod>(1, cpu::kAllPoints), cpu::kFirstRoot));
static_assert(same(power(cpu::kFirstRoot, cpu::kAllPoints / 128), cpu::root<Mod>(1, 128)));

}  // namespace
}  // namespace convkern
