// A loop of multiply-adds in registers, which shows the most that one thread can do with this
// instruction set.
#pragma once

#include "cpu/simd/vec.h"

namespace convkern::cpu {
namespace {

constexpr int kChains = 12;  // independent sums: over 2 units * 5 cycles of latency

// `a` and `b` are arguments so that the compiler cannot compute the sums in advance.
float multiply_add(int64_t rounds, float a, float b) {
  const Vec factor = Vec::broadcast(&a), term = Vec::broadcast(&b);
  Vec sums[kChains];
  for (int chain = 0; chain < kChains; ++chain) {
    const float start = static_cast<float>(chain);  // each chain starts differently
    sums[chain] = Vec::broadcast(&start);
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = fma(sums[chain], factor, term);
  }
  Vec total = Vec::zero();
  for (const Vec& sum : sums) total = add(total, sum);
  float lanes[Vec::kLanes];
  total.store_unaligned(lanes);
  return lanes[0];
}

constexpr PeakLoop kPeakLoop = {multiply_add, 2 * Vec::kLanes * kChains};

}  // namespace
}  // namespace convkern::cpu
