// The float32 algorithms, through which bfloat16 and float16 are computed.
#pragma once

#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"
#include "cpu/algos/kernels-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

template <class List>
struct WidenedList;

// The widened algorithms of a list. Algorithms that round more than the direct sum are left out.
template <const Algorithm&... kAlgorithms>
struct WidenedList<AlgorithmList<kAlgorithms...>> {
  template <const Algorithm& kAlgorithm>
  static constexpr const Algorithm* where_exact() {
    if constexpr (kAlgorithm.precision == Precision::highest) {
      return &through<Widened, kAlgorithm>;
    } else {
      return nullptr;
    }
  }
  static constexpr const Algorithm* kAll[] = {where_exact<kAlgorithms>()...};
};

}  // namespace half

using HalfAlgorithms = half::WidenedList<Algorithms>;

}  // namespace
}  // namespace convkern::cpu
