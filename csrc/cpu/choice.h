// Which algorithm a problem is left to: what decides, besides the order of the list in
// algos/kernels-inl.h, between the CPU kernels that support it. Pure functions of the problem and
// the number of lanes, fitted to measurements (AVX-512, Zen 4 and 5). They need only be right where
// the kernels are far apart.
#pragma once

#include <cstdint>

#include "core/executor.h"
#include "core/problem.h"
#include "core/reason.h"

namespace convkern::cpu {

// The share of the peak that an algorithm is estimated to reach with vectors of so many lanes, of
// the problem's dtype.
double estimate_implicit_gemm(const Problem& p, int lanes);
double estimate_columnlane(const Problem& p, int lanes);
double estimate_batchlane(const Problem& p, int lanes);

// Returns whether an algorithm computes the problem. It takes longer than an estimate, hence a
// function.
using Computes = FunctionRef<bool()>;

// Why each algorithm, although it supports the problem, leaves it to those after it in the list;
// Reason::none if it does not. direct_batchlane, the last, never does.
Reason channellane_declines(const Problem& p, int lanes);
Reason winograd_declines(const Problem& p, int64_t tile);  // of tile x tile outputs
Reason implicit_gemm_declines(const Problem& p, int lanes, Computes columnlane, Computes batchlane);
Reason columnlane_declines(const Problem& p, int lanes, Computes batchlane);

// Why implicit_gemm on pairs of bfloat16 leaves the problem to other kernels.
Reason pairs_decline(const Problem& p);

}  // namespace convkern::cpu
