// Gives bfloat16 and float16 operands to float32 algorithms as float32 numbers.
#pragma once

#include "cpu/algos/half/conversions-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

// The form of class Through<Form> for float32 numbers.
struct Widened {
  static constexpr bool kRounds = false;  // y and gx are rounded after the kernel has run
  static constexpr Reason (*kDeclines)(const Candidate&) = nullptr;
  const Problem& p;

  Reason supports() const {
    return p.dtype == DType::bf16 || p.dtype == DType::f16 ? Reason::none : Reason::dtype;
  }
  // Returns the float32 problem of the whole batch.
  Problem problem() const {
    Problem f32 = p;
    f32.dtype = DType::f32;
    return f32;
  }
  // These return the floats that buffers hold: those of an image of x or gx, of an image of y or
  // gy, and of all weights.
  int64_t x_floats() const { return p.C * p.H * p.W; }
  int64_t y_floats() const { return p.O * p.OH() * p.OW(); }
  int64_t w_floats() const { return p.O * p.Cg * p.R * p.S; }

  const float* x(const uint16_t* from, Range images, float* to, const Executor& executor) const {
    widen(p.dtype, from + images.begin * x_floats(), images.size() * x_floats(), to, executor);
    return to;
  }
  const float* gy(const uint16_t* from, Range images, float* to, const Executor& executor) const {
    widen(p.dtype, from + images.begin * y_floats(), images.size() * y_floats(), to, executor);
    return to;
  }
  void weights(const uint16_t* from, float* to, const Executor& executor) const {
    widen(p.dtype, from, w_floats(), to, executor);
  }
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
