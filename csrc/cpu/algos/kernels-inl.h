// The algorithms of the CPU, compiled once for each Vec. A new algorithm has its include and its
// line here.
#pragma once

#include "cpu/algos/algorithm_list-inl.h"
#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/columnlane/columnlane-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"
#include "cpu/algos/winograd/winograd-inl.h"

namespace convkern::cpu {
namespace {

// The algorithms in order of preference.
using Algorithms = AlgorithmList<  //
    channellane::algorithm,        //
    winograd::algorithm_4x4,       //
    winograd::algorithm_2x2,       //
    implicit_gemm::algorithm,      //
    columnlane::algorithm,         //
    batchlane::algorithm>;

}  // namespace
}  // namespace convkern::cpu
