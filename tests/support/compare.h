// Compares results with the plain sum, for the test programs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "core/scalar_types.h"

// The distance between neighbouring results, relative to them. It is 0 for float and double, where
// it is less than the errors of their sums.
template <class T>
constexpr double kEpsilon = 0;
template <>
constexpr double kEpsilon<convkern::BFloat16> = 1.0 / (1 << 7);
template <>
constexpr double kEpsilon<convkern::Half> = 1.0 / (1 << 10);

// Returns the first result that is wrong, or an empty text. An error of rounding plus `sum_error`
// of the largest result is allowed.
template <class T>
std::string difference(const T* out, const T* expected, int64_t size, double sum_error) {
  double largest = 1;
  for (int64_t i = 0; i < size; ++i) {
    largest = std::max(largest, std::abs(convkern::to_double(expected[i])));
  }
  for (int64_t i = 0; i < size; ++i) {
    const double is = convkern::to_double(out[i]), wanted = convkern::to_double(expected[i]);
    // The comparison is written so that NaN fails it.
    if (!(std::abs(is - wanted) <= sum_error * largest + kEpsilon<T> * std::abs(wanted))) {
      return "element " + std::to_string(i) + " is " + std::to_string(is) + ", not " +
             std::to_string(wanted);
    }
  }
  return {};
}
