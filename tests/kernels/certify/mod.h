// Integers modulo the prime p = 2^61 - 1 replace floating-point numbers. They are a field, so
// fractions exist, and sums are exact in any order.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "core/scalar_types.h"

namespace convkern {

struct Mod {
  static constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;
  // This bit marks numbers that were never written, whose bits are all set. It spreads through sums
  // and products as NaN does, even through a product with zero.
  static constexpr uint64_t kUnwritten = uint64_t{1} << 63;

  uint64_t value;  // less than p, unless never written

  Mod() = default;
  constexpr Mod(int number)  // NOLINT: implicit, as the conversion to float is
      : value(number < 0 ? kPrime - static_cast<uint64_t>(-int64_t{number}) : number) {}

  // Returns the number modulo p. The number is below 2^122 + 2^61, a sum or product of `operands`.
  static constexpr Mod reduced(unsigned __int128 number, uint64_t operands) {
    const uint64_t low = static_cast<uint64_t>(number) & kPrime;
    const uint64_t sum = low + static_cast<uint64_t>(number >> 61);
    Mod result;
    result.value = (sum >= kPrime ? sum - kPrime : sum) | (operands & kUnwritten);
    return result;
  }
  constexpr bool operator==(Mod other) const { return value == other.value; }
};

constexpr Mod fma(Mod a, Mod b, Mod c) {
  const auto product = static_cast<unsigned __int128>(a.value) * b.value;
  return Mod::reduced(product + c.value, a.value | b.value | c.value);
}
constexpr Mod operator*(Mod a, Mod b) { return fma(a, b, 0); }
constexpr Mod operator+(Mod a, Mod b) { return Mod::reduced(a.value + b.value, a.value | b.value); }
constexpr Mod operator-(Mod a, Mod b) { return fma(b, -1, a); }
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

static_assert(Mod(1) / Mod(24) * Mod(24) == Mod(1) && Mod(-1) + Mod(1) == Mod(0));

}  // namespace convkern
