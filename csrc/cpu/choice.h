// Chooses between the CPU kernels that support a problem. The first in the order of
// algos/kernels-inl.h that does not decline runs it. These are pure functions of the problem and
// the number of lanes. Their constants were fitted to measurements (AVX-512, Zen 4 and 5). They
// need to be right only if the speeds of the kernels are far apart.
#pragma once

#include <cstdint>

#include "core/kernel.h"

namespace convkern::cpu::choice {

// The names of algorithms that others are compared with.
constexpr const char* kColumnlane = "direct_columnlane";
constexpr const char* kBatchlane = "direct_batchlane";

// Returns the share of useful lanes if n numbers are stored in whole vectors.
double used_lanes(int64_t n, int lanes);

// Returns the estimated speed of an algorithm as a share of the processor's peak. `lanes` is the
// number of lanes in a vector of the problem's dtype.
double estimate_implicit_gemm(const Problem& p, int lanes);
double estimate_columnlane(const Problem& p, int lanes);
double estimate_batchlane(const Problem& p, int lanes);

// Returns why an algorithm that supports the problem leaves it to those after it in the list, or
// Reason::none if it takes the problem. direct_batchlane is the last and never declines.
Reason fft_declines(const Candidate& candidate);
Reason channellane_declines(const Candidate& candidate);
Reason winograd_4x4_declines(const Candidate& candidate);
Reason winograd_2x2_declines(const Candidate& candidate);
Reason skinny_gemm_declines(const Candidate& candidate);
Reason implicit_gemm_declines(const Candidate& candidate);
Reason columnlane_declines(const Candidate& candidate);

// Returns the same for implicit_gemm on pairs of bfloat16 numbers (algos/half/pairs-inl.h).
Reason pairs_decline(const Candidate& candidate);

}  // namespace convkern::cpu::choice
