// Roots of unity as constants, for the algorithms that compute Fourier transforms.
#pragma once

namespace convkern::cpu {

// The root exp(2 pi i k / n) = re + i im.
template <class Real>
struct Root {
  Real re, im;
};

// Returns the sum of the Taylor series of cos (first = 1) or sin (first = x) at 0 <= x <= pi / 4,
// from its term of order `order` on. Terms below 2^-70 are left out.
constexpr long double taylor(long double x, long double first, int order) {
  long double sum = 0, term = first;
  for (; term > 1e-21L || term < -1e-21L; order += 2) {
    sum += term;
    term *= -x * x / ((order + 1) * (order + 2));
  }
  return sum;
}

// Returns the root for 0 <= k < n, rounded once from long double. The series are used below pi / 4
// only, so that equal cosines and sines are equal numbers. A specialisation for another kind of
// number must keep the algebra: root(k, n) * root(m, n) = root(k + m, n), root(n - k, n) is the
// conjugate of root(k, n), and root(1, 4) = i.
template <class Real>
constexpr Root<Real> root(int k, int n) {
  if (8 * k > 4 * n) {
    const Root<Real> mirrored = root<Real>(n - k, n);
    return {mirrored.re, -mirrored.im};
  }
  if (8 * k > 2 * n) {  // beyond a quarter of the circle: the mirror image at the axis i
    const Root<Real> mirrored = root<Real>(n - 2 * k, 2 * n);
    return {-mirrored.re, mirrored.im};
  }
  constexpr long double kPi = 3.14159265358979323846264338327950288L;
  const bool near_i = 8 * k > n;  // beyond an eighth: cos and sin of the rest of the quarter
  const long double angle = near_i ? kPi / 2 - 2 * kPi * k / n : 2 * kPi * k / n;
  const auto cos = static_cast<Real>(taylor(angle, 1, 0));
  const auto sin = static_cast<Real>(taylor(angle, angle, 1));
  if (near_i) return {sin, cos};
  return {cos, sin};
}

}  // namespace convkern::cpu
