// The list of the algorithms for pairs of bfloat16. They are float32 algorithms whose product is
// that of two pairs.
#pragma once

#include "cpu/algos/algorithm_list-inl.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/pairs-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"

namespace convkern::cpu {
namespace {

using PairedAlgorithms = AlgorithmList<half::through<half::Pairs, implicit_gemm::algorithm>>;

}  // namespace
}  // namespace convkern::cpu
