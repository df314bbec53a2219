// Which algorithm a problem is left to: what decides, besides the order of the list in
// algos/kernels-inl.h, between the CPU kernels that support it. Pure functions of the problem and
// the number of lanes, fitted to measurements (AVX-512, Zen 4 and 5). They need only be right where
// the kernels are far apart.
#pragma once

#include <cstdint>

#include "core/kernel.h"

namespace convkern::cpu::choice {

// The names of algorithms that others are compared with.
constexpr const char* kColumnlane = "direct_columnlane";
constexpr const char* kBatchlane = "direct_batchlane";

// The share of the peak that an algorithm is estimated to reach with vectors of so many lanes, of
// the problem's dtype.
double estimate_implicit_gemm(const Problem& p, int lanes);
double estimate_columnlane(const Problem& p, int lanes);
double estimate_batchlane(const Problem& p, int lanes);

// Why each algorithm, although it supports the problem, leaves it to those after it in the list;
// Reason::none if it does not. direct_batchlane, the last, never does.
Reason channellane_declines(const Candidate& candidate);
Reason winograd_4x4_declines(const Candidate& candidate);
Reason winograd_2x2_declines(const Candidate& candidate);
Reason implicit_gemm_declines(const Candidate& candidate);
Reason columnlane_declines(const Candidate& candidate);

// Why implicit_gemm on pairs of bfloat16 leaves the problem to other kernels.
Reason pairs_decline(const Candidate& candidate);

}  // namespace convkern::cpu::choice
