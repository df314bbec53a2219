// The activations that the forward pass applies to its sums, and their text form.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/host_device.h"

namespace convkern {

// The formulas are those of torch.nn.functional; `clamp` is its hardtanh. NaN stays NaN.
enum class ActivationKind : uint8_t {
  none,
  relu,
  relu6,
  clamp,       // between the parameters
  leaky_relu,  // with the first parameter as slope below zero
  hardsigmoid,
  hardswish,
  sigmoid,
  silu,
  gelu,       // x times the normal distribution, by erf
  gelu_tanh,  // its approximation by tanh
};

struct Activation {
  ActivationKind kind = ActivationKind::none;
  double parameters[2] = {0, 0};

  bool operator==(const Activation& o) const {
    return kind == o.kind && parameters[0] == o.parameters[0] && parameters[1] == o.parameters[1];
  }
  // Whether the activation only bounds its argument, by low() and high().
  CONVKERN_HOST_DEVICE bool bounds() const {
    return kind == ActivationKind::relu || kind == ActivationKind::relu6 ||
           kind == ActivationKind::clamp;
  }
  CONVKERN_HOST_DEVICE double low() const {
    return kind == ActivationKind::clamp ? parameters[0] : 0;
  }
  CONVKERN_HOST_DEVICE double high() const {
    return kind == ActivationKind::relu    ? double{INFINITY}
           : kind == ActivationKind::relu6 ? 6
                                           : parameters[1];
  }
};

// Returns the text form: "relu", "clamp(-1,1)", "leaky_relu(0.1)", ...; empty for none. Equal
// activations have equal texts.
std::string to_string(const Activation& activation);

// Throws std::invalid_argument, whose message names the text and the rule that it breaks.
Activation parse_activation(std::string_view text);

// Returns the activation of x in the arithmetic of Float. Bounds are compared so that NaN stays.
template <class Float>
CONVKERN_HOST_DEVICE Float activated(const Activation& activation, Float x) {
  const Float zero = 0, half = Float(0.5), one = 1, three = 3, six = 6;
  const auto bounded = [](Float v, Float low, Float high) {
    return v < low ? low : v > high ? high : v;
  };
  switch (activation.kind) {
    case ActivationKind::none:
      return x;
    case ActivationKind::relu:
      return x < zero ? zero : x;
    case ActivationKind::relu6:
    case ActivationKind::clamp:
      return bounded(x, Float(activation.low()), Float(activation.high()));
    case ActivationKind::leaky_relu:
      return x < zero ? Float(activation.parameters[0]) * x : x;
    case ActivationKind::hardsigmoid:
      return bounded(x + three, zero, six) / six;
    case ActivationKind::hardswish:
      return x * bounded(x + three, zero, six) / six;
    case ActivationKind::sigmoid:
      return one / (one + std::exp(-x));
    case ActivationKind::silu:
      return x / (one + std::exp(-x));
    case ActivationKind::gelu:
      return half * x * (one + std::erf(x * Float(0.70710678118654752440)));
    case ActivationKind::gelu_tanh: {
      const Float root_2_over_pi = Float(0.79788456080286535588);
      return half * x * (one + std::tanh(root_2_over_pi * (x + Float(0.044715) * x * x * x)));
    }
  }
  return x;
}

}  // namespace convkern
