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

// The direct sum of a problem, as a part of another plan.
class DirectSum {
 public:
  explicit DirectSum(const Problem& p) : plan_(plan_direct(p)) {}
  bool works() const { return plan_ != nullptr; }
  int64_t workspace(int threads) const { return works() ? plan_->workspace(threads) : 0; }
  void run(const Operands& operands, void* workspace, const Executor& executor) const {
    plan_->run(operands, workspace, executor);
  }

 private:
  std::unique_ptr<const Plan> plan_;
};

// Makes a plan of class PassPlan as plan_pass() does, if its direct sum works().
template <class PassPlan>
Planned plan_with_direct(const Problem& p) {
  return plan_pass<PassPlan>(p, [](const PassPlan& plan) { return plan.works(); });
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

// Returns the sum of the lanes of a vector.
inline Real sum_of_lanes(const Vec& v) {
  alignas(64) Real lanes[kLanes];
  v.store(lanes);
  Real sum;
  sum_lanes(lanes, 1, &sum);
  return sum;
}

constexpr int kSideBySide = 4;  // sums that are computed together, since each waits for its last

// Collects the energy of some vectors, which is the sum of their squares, and the largest
// magnitude.
struct Loudness {
  Vec energies[kSideBySide], magnitudes[kSideBySide];

  Loudness() {
    for (int i = 0; i < kSideBySide; ++i) energies[i] = magnitudes[i] = Vec::zero();
  }
  CONVKERN_INLINE void see(int i, const Vec& v) {
    energies[i] = fma(v, v, energies[i]);
    magnitudes[i] = larger_magnitude(magnitudes[i], v);
  }
  // Sees n adjacent numbers.
  CONVKERN_INLINE void see_run(const Real* p, int64_t n) {
    see_all(p, n / kLanes, kLanes);
    const auto lanes = static_cast<int>(n % kLanes);
    if (lanes > 0) see(0, Vec::load_first(p + n - lanes, lanes));
  }
  // Sees n vectors that are `step` floats apart.
  CONVKERN_INLINE void see_all(const Real* at, int64_t n, int64_t step) {
    int64_t i = 0;
    for (; i + kSideBySide <= n; i += kSideBySide, at += kSideBySide * step) {
#pragma GCC unroll 4
      for (int j = 0; j < kSideBySide; ++j) see(j, Vec::load_unaligned(at + j * step));
    }
    for (; i < n; ++i, at += step) see(0, Vec::load_unaligned(at));
  }
  // Returns the sum of energies of all lanes.
  Real total() const { return sum_of_lanes(energy()); }
  CONVKERN_INLINE Vec energy() const {
    return add(add(energies[0], energies[1]), add(energies[2], energies[3]));
  }
  CONVKERN_INLINE Vec largest() const {
    return larger_magnitude(larger_magnitude(magnitudes[0], magnitudes[1]),
                            larger_magnitude(magnitudes[2], magnitudes[3]));
  }
};

// Numbers that transforms may mix without harm have three properties. None is loud: the square of a
// loud number is more than a quarter of the energy of all, and others may lose their digits beside
// it. The energy is less than a limit, so that squares, and the sums of a transform, are finite.
// And they are not all so small that their squares, or their parts in a transform, lose digits.
constexpr Real kLoudShare = 4;
constexpr Real kMostEnergy = Real(1 << 30) * Real(1 << 30) * Real(1 << 30);  // 1.2e27
constexpr Real kInverseOfLeast = Real(1 << 30) * Real(1 << 30);  // of the smallest number, 8.7e-19

// Returns whether numbers of some lane lack one of these properties. `largest` is the largest
// magnitude in each lane. Zeros alone are safe.
CONVKERN_INLINE bool is_unsafe(const Vec& energy, const Vec& largest) {
  const Vec energy_of_loud = mul(mul(Vec::broadcast(&kLoudShare), largest), largest);
  return exceeds(energy_of_loud, energy) || exceeds(energy, Vec::broadcast(&kMostEnergy)) ||
         exceeds(largest, mul(Vec::broadcast(&kInverseOfLeast), energy));
}

// Returns whether an energy is less than the most, and more than that of the least number.
inline bool is_safe_energy(const Real& number) {
  static constexpr Real kOne = 1;
  const Vec energy = Vec::broadcast(&number), inverse = Vec::broadcast(&kInverseOfLeast);
  return !exceeds(energy, Vec::broadcast(&kMostEnergy)) &&
         !exceeds(Vec::broadcast(&kOne), mul(inverse, mul(inverse, energy)));
}

// Returns whether `count` results are finite and not all tiny, so that their operands were not
// either. Zeros alone, such as the gradient behind a ReLU that is zero everywhere, are safe.
inline bool are_safe_results(const Real* p, int64_t count) {
  Loudness seen;
  seen.see_run(p, count);
  const Real energy = seen.total();
  const bool zero = energy == 0 && !exceeds(seen.largest(), Vec::zero());
  return zero || is_safe_energy(energy);
}

// The direct sum for single images of forward or grad_input.
class DirectImages {
 public:
  explicit DirectImages(const Problem& p) : p_(p), one_(single_image(p)) {}
  bool works() const { return one_.works(); }
  int64_t workspace(int threads) const { return one_.workspace(threads); }
  // Computes image `image` of the operands of the whole batch.
  void run(const Operands& ops, int64_t image, void* workspace, const Executor& executor) const {
    const int64_t x = image * x_shape(p_).size(), y = image * y_shape(p_).size();
    Operands one = ops;
    one.packed = nullptr;
    if (ops.x != nullptr) one.x = static_cast<const Real*>(ops.x) + x;
    if (ops.gy != nullptr) one.gy = static_cast<const Real*>(ops.gy) + y;
    if (ops.residual != nullptr) one.residual = static_cast<const Real*>(ops.residual) + y;
    one.out = static_cast<Real*>(ops.out) + (p_.pass == Pass::forward ? y : x);
    one_.run(one, workspace, executor);
  }
  // Computes the images that are marked.
  void run_marked(const Operands& ops, const Marks& marks, void* workspace,
                  const Executor& executor) const {
    for (int64_t image = 0; image < p_.N; ++image) {
      if (marks.is_set(image)) run(ops, image, workspace, executor);
    }
  }

 private:
  static Problem single_image(Problem p) {
    p.N = 1;
    return p;
  }

  const Problem p_;
  const DirectSum one_;
};

}  // namespace
}  // namespace convkern::cpu
