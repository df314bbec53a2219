// Gives bfloat16 and float16 images to algorithms that convert each pixel as they load and store
// it. Weights and biases are given as float32 numbers.
#pragma once

#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

// The form of class Through<Form> for images as they are stored. Only weights are widened.
struct Stored : Widened {
  static constexpr bool kRounds = true;  // the kernel itself rounds y and gx

  Problem problem() const { return p; }
  int64_t x_floats() const { return 0; }
  int64_t y_floats() const { return 0; }

  const void* x(const uint16_t* from, Range images, float*, const Executor&) const {
    return from + images.begin * Widened::x_floats();
  }
  const void* gy(const uint16_t* from, Range images, float*, const Executor&) const {
    return from + images.begin * Widened::y_floats();
  }
};

// The plans of direct_channellane for tensors of a number type of 16 bits.
template <class Number>
constexpr Algorithm stored_channellane = {
    channellane::algorithm.name,
    channellane::plan_if_grouped<channellane::Forward<Number>, Number>,
    channellane::plan_if_grouped<channellane::GradInput<Number>, Number>,
    channellane::plan_if_grouped<channellane::GradWeight<Number>, Number>,
    channellane::algorithm.declines,
};

// Plans direct_channellane in half precision: depthwise problems in channels_last on the images as
// they are stored, and others on images that are widened. So are those whose results are finished,
// because these would be rounded twice.
template <Pass kPass>
Planned plan_channellane(const Problem& p) {
  const bool as_stored =
      kPass == Pass::grad_weight ? channellane::sums_in_strips(p) : channellane::Groups(p).in_place;
  if (as_stored && !is_finished(p)) {
    return p.dtype == DType::bf16 ? plan_through<Stored, stored_channellane<BFloat16>, kPass>(p)
                                  : plan_through<Stored, stored_channellane<Half>, kPass>(p);
  }
  return plan_through<Widened, channellane::algorithm, kPass>(p);
}

constexpr Algorithm channellane_of_half = {
    channellane::algorithm.name,        plan_channellane<Pass::forward>,
    plan_channellane<Pass::grad_input>, plan_channellane<Pass::grad_weight>,
    channellane::algorithm.declines,
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
