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

constexpr int kSideBySide = 4;  // sums that are computed side by side, since each waits for its last

// Returns whether all of `count` numbers are finite.
inline bool all_finite(const Real* p, int64_t count) {
  Vec sum = Vec::zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const auto lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    sum = fma(Vec::load_first(p + i, lanes), Vec::zero(), sum);
  }
  return !exceeds(sum, Vec::zero());
}

// Collects the energy of some vectors, which is the sum of their squares, and the largest square.
struct Loudness {
  Vec energies[kSideBySide], largest[kSideBySide];

  Loudness() {
    for (int i = 0; i < kSideBySide; ++i) energies[i] = largest[i] = Vec::zero();
  }
  CONVKERN_INLINE void see(int i, const Vec& v) {
    energies[i] = fma(v, v, energies[i]);
    largest[i] = larger(largest[i], mul(v, v));
  }
  // Sees n vectors that are `step` floats apart.
  CONVKERN_INLINE void see_all(const Real* at, int64_t n, int64_t step) {
    int64_t i = 0;
    for (; i + kSideBySide <= n; i += kSideBySide, at += kSideBySide * step) {
#pragma GCC unroll 4
      for (int j = 0; j < kSideBySide; ++j) see(j, Vec::load(at + j * step));
    }
    for (; i < n; ++i, at += step) see(0, Vec::load(at));
  }
  CONVKERN_INLINE Vec energy() const {
    return add(add(energies[0], energies[1]), add(energies[2], energies[3]));
  }
  CONVKERN_INLINE Vec loudest() const {
    return larger(larger(largest[0], largest[1]), larger(largest[2], largest[3]));
  }
};

}  // namespace
}  // namespace convkern::cpu
