// Activations of vectors. float32 vectors use polynomials and quotients of polynomials, whose
// errors are below 4e-7 of the largest value near the argument. float64 numbers are computed one by
// one with the functions of the standard library (core/activation.h).
#pragma once

#include "cpu/tiles/operands-inl.h"

namespace convkern::cpu {
namespace {

// The formulas below are in terms of a class V of vectors, so that they compile only where they are
// used: Vec has their operations in float32.
template <class V>
struct VectorMath {
  static CONVKERN_INLINE V constant(float number) { return V::broadcast(&number); }

  // Returns p[0] + p[1] x + p[2] x^2 + ...
  template <size_t n>
  static CONVKERN_INLINE V polynomial(V x, const float (&p)[n]) {
    V sum = constant(p[n - 1]);
#pragma GCC unroll 8
    for (size_t i = n - 1; i > 0; --i) sum = fma(sum, x, constant(p[i - 1]));
    return sum;
  }

  // Returns e^x as 2^n e^r, with |r| at most ln(2) / 2. Arguments beyond the bounds give infinity
  // or zero as they are.
  static CONVKERN_INLINE V exp(V x) {
    x = bounded(x, constant(-104), constant(104));
    const V n = rounded(mul(x, constant(1.44269504f)));
    V r = fnma(n, constant(0.693359375f), x);  // ln(2) in two parts, of which this is exact
    r = fnma(n, constant(-2.12194440e-4f), r);
    constexpr float kTaylor[] = {1, 1, 1.0f / 2, 1.0f / 6, 1.0f / 24, 1.0f / 120, 1.0f / 720};
    return times_power_of_2(polynomial(r, kTaylor), n);
  }

  // Returns x / (1 + e^-at).
  static CONVKERN_INLINE V over_logistic(V x, V at) {
    return div(x, add(constant(1), exp(sub(V::zero(), at))));
  }

  // Returns the error function, as the quotient of polynomials that was fitted to it by least
  // squares on |x| <= 4. Beyond, it is 1 in float32.
  static CONVKERN_INLINE V erf(V x) {
    x = bounded(x, constant(-4), constant(4));
    constexpr float kNumerator[] = {1.128378987312317f,    0.19623616337776184f,
                                    0.053465742617845535f, 0.004003081936389208f,
                                    2.88025796180591e-4f,  1.974889528355561e-6f};
    constexpr float kDenominator[] = {1.0f,
                                      0.5072409510612488f,
                                      0.11647108942270279f,
                                      0.01544330082833767f,
                                      0.0012162174098193645f,
                                      3.7480662285815924e-5f};
    const V t = mul(x, x);
    const V quotient = div(mul(x, polynomial(t, kNumerator)), polynomial(t, kDenominator));
    return bounded(quotient, constant(-1), constant(1));
  }

  // Calls apply(f) with the function f(V) of an activation that is more than bounds.
  template <class Apply>
  static void with_function(const Activation& activation, const Apply& apply) {
    const V slope = constant(static_cast<float>(activation.parameters[0]));
    const V low = constant(-INFINITY), high = constant(INFINITY);
    const auto hardsigmoid = [](V x) CONVKERN_INLINE_LAMBDA {
      return mul(bounded(add(x, constant(3)), V::zero(), constant(6)), constant(1.0f / 6));
    };
    switch (activation.kind) {
      case ActivationKind::leaky_relu:
        return apply([=](V x) CONVKERN_INLINE_LAMBDA {
          const V positive = bounded(x, V::zero(), high);
          return fma(bounded(x, low, V::zero()), slope, positive);
        });
      case ActivationKind::hardsigmoid:
        return apply(hardsigmoid);
      case ActivationKind::hardswish:
        return apply([=](V x) CONVKERN_INLINE_LAMBDA { return mul(x, hardsigmoid(x)); });
      case ActivationKind::sigmoid:
        return apply([](V x) CONVKERN_INLINE_LAMBDA { return over_logistic(constant(1), x); });
      case ActivationKind::silu:
        return apply([](V x) CONVKERN_INLINE_LAMBDA { return over_logistic(x, x); });
      case ActivationKind::gelu:
        return apply([](V x) CONVKERN_INLINE_LAMBDA {
          const V half = mul(x, constant(0.5f));
          return fma(half, erf(mul(x, constant(0.707106781f))), half);
        });
      case ActivationKind::gelu_tanh:  // 1 + tanh(u) = 2 / (1 + e^-2u)
        return apply([](V x) CONVKERN_INLINE_LAMBDA {
          const V cubic =
              fma(mul(x, x), constant(2 * 0.79788456f * 0.044715f), constant(2 * 0.79788456f));
          return over_logistic(x, mul(x, cubic));
        });
      default:
        return apply([](V x) CONVKERN_INLINE_LAMBDA { return x; });
    }
  }
};

}  // namespace
}  // namespace convkern::cpu
