// Gives bfloat16 operands to float32 algorithms as pairs, which take the place of floats.
// Algorithms move pairs like floats. Only the product differs: one instruction (VDPBF16PS)
// multiplies two pairs number by number and adds both products to a float32 sum. So a pair has two
// neighbouring terms of a sum. In forward these are channels of x, in grad_input channels of gy,
// and in grad_weight images. The number of paired channels of a group must be even. If the number
// of images is odd, the last is paired with zeros.
#pragma once

#include "cpu/algos/half/conversions-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

// The form of class Through<Form> for pairs.
struct Pairs {
  static constexpr bool kRounds = true;  // the kernel itself rounds y and gx to bfloat16
  static constexpr Reason (*kDeclines)(const Candidate&) = choice::pairs_decline;
  const Problem& p;

  Reason supports() const {
    if (p.dtype != DType::bf16) return Reason::dtype;
    const int64_t terms = p.pass == Pass::forward      ? p.Cg
                          : p.pass == Pass::grad_input ? p.Og()
                                                       : 0;  // grad_weight takes any batch
    return terms % 2 == 0 ? Reason::none : Reason::odd_terms;
  }
  Problem problem() const {
    Problem f32 = p;
    f32.dtype = DType::f32;
    if (p.pass == Pass::forward) {
      f32.C /= 2;
      f32.Cg /= 2;
    } else if (p.pass == Pass::grad_input) {
      f32.O /= 2;
    } else {
      f32.N = ceil_div(p.N, 2);
    }
    return f32;
  }
  int64_t x_floats() const {
    if (p.pass == Pass::grad_weight) return x_size();
    return p.pass == Pass::grad_input || in_place() ? 0 : x_size() / 2;
  }
  int64_t y_floats() const {
    if (p.pass == Pass::grad_weight) return y_size();
    return p.pass == Pass::forward || in_place() ? 0 : y_size() / 2;
  }
  int64_t w_floats() const {
    return p.O * p.Cg * p.R * p.S / (p.pass == Pass::grad_weight ? 1 : 2);
  }

  const float* x(const uint16_t* from, Range images, float* to, const Executor& executor) const {
    return pairs(from, p.pass == Pass::forward, p.C, x_size(), images, to, executor);
  }
  const float* gy(const uint16_t* from, Range images, float* to, const Executor& executor) const {
    return pairs(from, p.pass == Pass::grad_input, p.O, y_size(), images, to, executor);
  }
  void weights(const uint16_t* from, float* to, const Executor& executor) const {
    const int64_t taps = p.R * p.S;
    const bool of_inputs = p.pass == Pass::forward;
    pair_planes(from, of_inputs ? p.O * p.Cg : p.O, of_inputs ? taps : p.Cg * taps,
                reinterpret_cast<uint32_t*>(to), executor);
  }

 private:
  int64_t x_size() const { return p.C * p.H * p.W; }
  int64_t y_size() const { return p.O * p.OH() * p.OW(); }
  // Returns whether neighbouring channels are adjacent in memory, so that they are pairs already.
  bool in_place() const { return p.layout == Layout::nhwc; }

  const float* pairs(const uint16_t* from, bool of_channels, int64_t channels, int64_t size,
                     Range images, float* to, const Executor& executor) const {
    auto* pairs = reinterpret_cast<uint32_t*>(to);
    if (!of_channels) {  // then `images` counts pairs of images
      const int64_t first = 2 * images.begin, last = std::min(p.N, 2 * images.end);
      pair_planes(from + first * size, last - first, size, pairs, executor);
      return to;
    }
    from += images.begin * size;
    if (in_place()) return reinterpret_cast<const float*>(from);
    pair_planes(from, images.size() * channels, size / channels, pairs, executor);
    return to;
  }
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
