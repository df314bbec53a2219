// The list of the algorithms for bfloat16 and float16. They are the float32 algorithms, most of
// them on operands that are widened to float32.
#pragma once

#include "cpu/algos/half/stored-inl.h"
#include "cpu/algos/half/widened-inl.h"
#include "cpu/algos/kernels-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

template <class List>
struct WidenedList;

// The algorithms of a list in half precision. Null stands for algorithms that round more than torch
// does; they are for float32 only.
template <const Algorithm&... kAlgorithms>
struct WidenedList<AlgorithmList<kAlgorithms...>> {
  template <const Algorithm& kAlgorithm>
  static constexpr const Algorithm* where_accurate() {
    if constexpr (&kAlgorithm == &channellane::algorithm) {
      return &channellane_of_half;
    } else if constexpr (kAlgorithm.precision <= Precision::high) {
      return &through<Widened, kAlgorithm>;
    } else {
      return nullptr;
    }
  }
  static constexpr const Algorithm* kAll[] = {where_accurate<kAlgorithms>()...};
};

}  // namespace half

using HalfAlgorithms = half::WidenedList<Algorithms>;

}  // namespace
}  // namespace convkern::cpu
