// Integers modulo the prime p = 2^61 - 19713 replace floating-point numbers. They are a field, so
// fractions exist, and sums are exact in any order.
//
// The integers are pairs (re, im) of a field of p^2 elements too, with i^2 = -1, because -1 is no
// square: p + 1 is a multiple of 4. Fourier transforms need roots of unity in it whose inverse is
// their conjugate. They are the elements of norm re^2 + im^2 = 1, of which there are p + 1, the
// powers of one of them. So there is a root for each number of points that divides p + 1. This p is
// the largest below 2^61 where p + 1 is a multiple of 5760 = 2^7 * 3^2 * 5 (see roots_mod.h).
#pragma once

#include <cstdint>
#include <cstdlib>

#include "core/scalar_types.h"

namespace convkern {

struct Mod {
  static constexpr uint64_t kBelow = 19713;  // p is less than 2^61 by this
  static constexpr uint64_t kPrime = (uint64_t{1} << 61) - kBelow;
  // This bit marks numbers that were never written, whose bits are all set. It spreads through sums
  // and products as NaN does, even through a product with zero.
  static constexpr uint64_t kUnwritten = uint64_t{1} << 63;

  uint64_t value;  // less than p, unless never written

  Mod() = default;
  constexpr Mod(int number)  // NOLINT: implicit, as the conversion to float is
      : value(number < 0 ? kPrime - static_cast<uint64_t>(-int64_t{number}) : number) {}

  // Returns a number below 2^79 that is equal modulo p to one below 2^125, because 2^61 is equal to
  // kBelow, which is less than 2^15.
  static constexpr unsigned __int128 folded(unsigned __int128 number) {
    return low(number) + static_cast<unsigned __int128>(high(number)) * kBelow;
  }
  // Returns the number modulo p. It is below 2^125, a sum or product of `operands`.
  static constexpr Mod reduced(unsigned __int128 number, uint64_t operands) {
    const unsigned __int128 once = folded(number);
    return reduced_below_2p(low(once) + high(once) * kBelow, operands);
  }
  static constexpr Mod reduced_below_2p(uint64_t number, uint64_t operands) {
    Mod result;
    result.value = (number >= kPrime ? number - kPrime : number) | (operands & kUnwritten);
    return result;
  }
  constexpr bool operator==(Mod other) const { return value == other.value; }

 private:
  // The last 61 bits, and those before them.
  static constexpr uint64_t low(unsigned __int128 number) {
    return static_cast<uint64_t>(number) & ((uint64_t{1} << 61) - 1);
  }
  static constexpr uint64_t high(unsigned __int128 number) {
    return static_cast<uint64_t>(number >> 61);
  }
};

constexpr Mod fma(Mod a, Mod b, Mod c) {
  const auto product = static_cast<unsigned __int128>(a.value) * b.value;
  return Mod::reduced(product + c.value, a.value | b.value | c.value);
}
constexpr Mod operator*(Mod a, Mod b) { return fma(a, b, 0); }
constexpr Mod operator+(Mod a, Mod b) {
  return Mod::reduced_below_2p(a.value + b.value, a.value | b.value);
}
constexpr Mod operator-(Mod a, Mod b) {
  return Mod::reduced_below_2p(a.value + (Mod::kPrime - b.value), a.value | b.value);
}
constexpr Mod& operator+=(Mod& a, Mod b) { return a = a + b; }
constexpr Mod operator/(Mod a, Mod b) {  // by Fermat, the inverse of b is b^(p - 2)
  for (uint64_t exponent = Mod::kPrime - 2; exponent > 0; exponent /= 2, b = b * b) {
    if (exponent % 2 == 1) a = a * b;
  }
  return a;
}

template <>
struct WideOf<Mod> {
  using type = Mod;
};

}  // namespace convkern
