// Activations with their derivatives, for the loops of batch normalisation. Each has value(u), and
// times_slope(g, u) = g times the derivative at u, which is torch's at the points where there are
// two.
#pragma once

#include "cpu/tiles/activations-inl.h"

namespace convkern::cpu {
namespace {

CONVKERN_INLINE Vec number(double value) {
  const auto real = static_cast<Real>(value);
  return Vec::broadcast(&real);
}

struct Unchanged {
  CONVKERN_INLINE Vec value(Vec u) const { return u; }
  CONVKERN_INLINE Vec times_slope(Vec g, Vec) const { return g; }
};

struct Bounded {
  Vec low, high, end;
  explicit Bounded(const Activation& a)
      : low(number(a.low())),
        high(number(a.high())),
        // The slope of ReLU is 1 at infinity too: nothing reaches NaN.
        end(number(a.kind == ActivationKind::relu ? NAN : a.high())) {}
  CONVKERN_INLINE Vec value(Vec u) const { return bounded(u, low, high); }
  CONVKERN_INLINE LaneBits inside(Vec u) const { return between(u, low, end); }
  CONVKERN_INLINE Vec times_slope(Vec g, Vec u) const { return kept(g, inside(u)); }
};

struct LeakyRelu {
  Vec slope;
  explicit LeakyRelu(const Activation& a) : slope(number(a.parameters[0])) {}
  // NaN, for which both bounds are true, is not positive.
  static CONVKERN_INLINE LaneBits positive(Vec u) {
    return between(u, Vec::zero(), number(NAN)) & ~between(u, number(NAN), Vec::zero());
  }
  CONVKERN_INLINE Vec value(Vec u) const { return times_slope(u, u); }
  CONVKERN_INLINE Vec times_slope(Vec g, Vec u) const {
    const LaneBits whole = positive(u);
    return add(kept(g, whole), kept(mul(g, slope), ~whole));
  }
};

struct Hardswish {
  static CONVKERN_INLINE Vec value(Vec u) {
    return mul(mul(u, bounded(add(u, number(3)), Vec::zero(), number(6))), number(1.0 / 6));
  }
  static CONVKERN_INLINE Vec times_slope(Vec g, Vec u) {
    const Vec middle = mul(g, fma(u, number(1.0 / 3), number(0.5)));
    const LaneBits inside = between(u, number(-3), number(3));
    const LaneBits below_3 = between(u, number(NAN), number(3));
    return add(kept(middle, inside), kept(g, ~below_3));
  }
};

struct Silu {
  static CONVKERN_INLINE Vec logistic(Vec u) {
    if constexpr (std::is_same_v<Real, float>) {
      return VectorMath<Vec>::over_logistic(number(1), u);
    } else {
      alignas(64) Real lanes[kLanes];
      u.store(lanes);
      for (Real& x : lanes) x = 1 / (1 + std::exp(-x));
      return Vec::load(lanes);
    }
  }
  static CONVKERN_INLINE Vec value(Vec u) { return mul(u, logistic(u)); }
  static CONVKERN_INLINE Vec times_slope(Vec g, Vec u) {
    const Vec s = logistic(u);
    return mul(mul(g, s), fma(u, sub(number(1), s), number(1)));
  }
};

// Calls apply(f) with one of these.
template <class Apply>
void with_slope(const Activation& activation, const Apply& apply) {
  switch (activation.kind) {
    case ActivationKind::relu:
    case ActivationKind::relu6:
    case ActivationKind::clamp:
      return apply(Bounded(activation));
    case ActivationKind::leaky_relu:
      return apply(LeakyRelu(activation));
    case ActivationKind::hardswish:
      return apply(Hardswish{});
    case ActivationKind::silu:
      return apply(Silu{});
    default:
      return apply(Unchanged{});
  }
}

}  // namespace
}  // namespace convkern::cpu
