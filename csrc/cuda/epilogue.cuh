// What forward does with its sums: y = activation(sum + residual), where the sum has its bias. This
// is computed in the type of the sum, before the result is rounded to the type of y.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/activation.h"
#include "core/plan.h"
#include "cuda/device_ops.cuh"

namespace convkern::cuda {

// What a call takes and returns in registers.
template <class Real, int kCount>
struct Values {
  Real values[kCount];
};

// Returns the activations of values. This is a call, because a thread has up to 64 results, and the
// instructions of exp, erf and tanh for each of them would not fit the instruction cache. Arguments
// are values, because the address of a register would move it to the stack.
template <class Real, int kCount>
__device__ __noinline__ Values<Real, kCount> activated_values(ActivationKind kind, Real slope,
                                                              Values<Real, kCount> values) {
#pragma unroll
  for (Real& value : values.values) value = activated(Activation{kind, {slope, 0}}, value);
  return values;
}

// The epilogue of forward for results of type Element. As made by default it changes nothing.
template <class Element>
struct Epilogue {
  // float, or Element where that is no 16-bit type. Kernels are certified with integers modulo a
  // prime as elements, which have no order and no activation.
  using Real = std::conditional_t<sizeof(Element) <= sizeof(float), float, Element>;
  static constexpr bool kHasOrder = std::is_floating_point_v<Real>;

  const Element* residual = nullptr;  // as y, or null
  ActivationKind kind = ActivationKind::none;
  bool bounds = false;  // the activation is between `low` and `high`
  Real low = 0, high = 0;
  Real slope = 0;  // of leaky_relu

  Epilogue() = default;
  // Gradients have no epilogue.
  Epilogue(const Problem& p, const Operands& ops) {
    if (p.pass != Pass::forward) return;
    residual = static_cast<const Element*>(ops.residual);
    kind = p.activation.kind;
    bounds = p.activation.bounds();
    low = static_cast<Real>(p.activation.low()), high = static_cast<Real>(p.activation.high());
    slope = static_cast<Real>(p.activation.parameters[0]);
  }

  // Every thread of a grid takes the same branches. NaN stays NaN.
  template <int kCount>
  __device__ __forceinline__ void activate(Real (&values)[kCount]) const {
    if constexpr (kHasOrder) {
      if (kind == ActivationKind::none) return;
      if (bounds) {
#pragma unroll
        for (Real& value : values) {
          value = value < low ? low : value;
          value = value > high ? high : value;
        }
        return;
      }
      constexpr int kOfCall = kCount < 4 ? kCount : 4;
      static_assert(kCount % kOfCall == 0);
#pragma unroll
      for (int i = 0; i < kCount; i += kOfCall) {
        Values<Real, kOfCall> some;
#pragma unroll
        for (int k = 0; k < kOfCall; ++k) some.values[k] = values[i + k];
        some = activated_values(kind, slope, some);
#pragma unroll
        for (int k = 0; k < kOfCall; ++k) values[i + k] = some.values[k];
      }
    }
  }
  // The same for rows of values, so that the branches are taken once.
  template <int kRows, int kCount>
  __device__ __forceinline__ void activate(Real (&rows)[kRows][kCount]) const {
    if (kind == ActivationKind::none) return;
#pragma unroll
    for (Real(&values)[kCount] : rows) activate(values);
  }

  // Returns the result for the offset `at` of y, in elements, before it is rounded.
  __device__ __forceinline__ Real finished(Real sum, int64_t at) const {
    Real one[1] = {with_residual(sum, at)};
    activate(one);
    return one[0];
  }

 private:
  __device__ __forceinline__ Real with_residual(Real sum, int64_t at) const {
    if (residual == nullptr) return sum;
    if constexpr (std::is_same_v<Element, Real>) {
      return sum + residual[at];
    } else {
      return sum + to_float(residual[at]);
    }
  }
};

}  // namespace convkern::cuda
