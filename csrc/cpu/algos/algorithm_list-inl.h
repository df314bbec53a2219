// A list of algorithms, from which the kernels of an instruction set are made. It is constant data:
// code that makes the kernels would be compiled for the instruction set, but run on processors that
// lack it.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

template <const Algorithm&... kAlgorithms>
struct AlgorithmList {
  // The algorithm, or null: those that round more than the direct sum are for float32 only.
  template <const Algorithm& kAlgorithm>
  static constexpr const Algorithm* where_computed() {
    if constexpr (kDType == DType::f32 || kAlgorithm.precision == Precision::highest) {
      return &kAlgorithm;
    } else {
      return nullptr;
    }
  }
  static constexpr const Algorithm* kAll[] = {where_computed<kAlgorithms>()...};
};

}  // namespace
}  // namespace convkern::cpu
