// A list of algorithms, from which the kernels of one instruction set are made. The list must be
// constant data. Code that made it at run time would be compiled for that instruction set, but
// would run on every processor, also on those that lack it.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

template <const Algorithm&... kAlgorithms>
struct AlgorithmList {
  // Returns the algorithm, or null if it is not for this dtype. Algorithms that round more than
  // torch does are for float32 only.
  template <const Algorithm& kAlgorithm>
  static constexpr const Algorithm* where_computed() {
    if constexpr (kDType == DType::f32 || kAlgorithm.precision <= Precision::high) {
      return &kAlgorithm;
    } else {
      return nullptr;
    }
  }
  static constexpr const Algorithm* kAll[] = {where_computed<kAlgorithms>()...};
};

}  // namespace
}  // namespace convkern::cpu
