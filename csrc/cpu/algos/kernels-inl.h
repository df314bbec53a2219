// The list of the CPU's algorithms. It is compiled once for each vector type Vec, that is, for each
// dtype and instruction set. A new algorithm needs an include and a line here.
#pragma once

#include "cpu/algos/algorithm_list-inl.h"
#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/columnlane/columnlane-inl.h"
#include "cpu/algos/fft/fft-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"
#include "cpu/algos/skinny_gemm/skinny_gemm-inl.h"
#include "cpu/algos/winograd/winograd-inl.h"

namespace convkern::cpu {
namespace {

// The algorithms in order of preference.
using Algorithms = AlgorithmList<  //
    fft::algorithm,                //
    channellane::algorithm,        //
    winograd::algorithm_4x4,       //
    winograd::algorithm_2x2,       //
    skinny_gemm::algorithm,        //
    implicit_gemm::algorithm,      //
    columnlane::algorithm,         //
    batchlane::algorithm>;

}  // namespace
}  // namespace convkern::cpu
