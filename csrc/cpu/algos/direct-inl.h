// The direct sum, for algorithms that are not accurate on every input. They look at what they read
// and write, mark the results that they cannot vouch for, and leave these to a plan from here.
#pragma once

#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/channellane/channellane-inl.h"
#include "cpu/algos/columnlane/columnlane-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"

namespace convkern::cpu {
namespace {

// Returns the plan of the first direct algorithm that does not leave the problem to the others, or
// else of the first that computes it. Returns null if none does.
inline std::unique_ptr<const Plan> plan_direct(const Problem& p) {
  std::unique_ptr<const Plan> declined;
  for (const Algorithm* algorithm : {&channellane::algorithm, &implicit_gemm::algorithm,
                                     &columnlane::algorithm, &batchlane::algorithm}) {
    Planned planned = algorithm->plan(p.pass)(p);
    if (planned.plan == nullptr) continue;
    const auto supported = [](const char*) { return true; };
    const bool takes = algorithm->declines == nullptr ||
                       algorithm->declines({p, kLanes, supported}) == Reason::none;
    if (takes) return std::move(planned.plan);
    if (declined == nullptr) declined = std::move(planned.plan);
  }
  return declined;
}

// Results that the direct sum must compute again, one mark for each. Several threads may set the
// same mark.
struct Marks {
  uint8_t* at;

  void clear(int64_t count) const { std::memset(at, 0, count); }
  void set(int64_t i) const { __atomic_store_n(at + i, 1, __ATOMIC_RELAXED); }
  bool is_set(int64_t i) const { return at[i] != 0; }
  static int64_t bytes(int64_t count) { return ceil_div(count, 64) * 64; }
};

// Collects whether all numbers of some vectors are finite.
struct Finiteness {
  Vec sum;  // stays zero while they are

  Finiteness() : sum(Vec::zero()) {}
  CONVKERN_INLINE void see(const Vec& v) { sum = fma(v, Vec::zero(), sum); }
  CONVKERN_INLINE bool lost() const { return exceeds(sum, Vec::zero()); }
};

// Returns whether lane `lane` of a exceeds that of b, where both are vectors in memory.
inline bool lane_exceeds(const Real* a, const Real* b, int lane) {
  return exceeds(Vec::load_first(a + lane, 1), Vec::load_first(b + lane, 1));
}

}  // namespace
}  // namespace convkern::cpu
