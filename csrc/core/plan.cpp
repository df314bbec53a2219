#include "core/plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace convkern {

Problem judged_problem(const Problem& problem, const Constraints& constraints) {
  Problem judged = problem;
  if (constraints.batch_invariant && problem.pass != Pass::grad_weight) {
    judged.N = std::min<int64_t>(problem.N, 1);
  }
  return judged;
}

Reason why_not(const Kernel& kernel, const Problem& problem, const Constraints& constraints) {
  if (kernel.isa > constraints.available) return Reason::isa_not_available;
  if (kernel.isa > constraints.cap) return Reason::isa_capped;
  if (constraints.deterministic && !kernel.deterministic) return Reason::not_deterministic;
  const Reason reason = kernel.supports(problem);
  if (reason == Reason::none && kernel.precision > constraints.precision) {
    return kernel.precision == Precision::tf32 ? Reason::tf32 : Reason::precision;
  }
  return reason;
}

namespace {
Reason why_declined(const Kernel& kernel, const Problem& problem) {
  return kernel.declines == nullptr ? Reason::none : kernel.declines(problem);
}
}  // namespace

Reason why_passed_over(const Kernel& kernel, const Problem& problem,
                       const Constraints& constraints) {
  const Reason reason = why_not(kernel, problem, constraints);
  return reason != Reason::none ? reason : why_declined(kernel, problem);
}

const Kernel& choose(const KernelList& kernels, const Problem& whole,
                     const Constraints& constraints, std::vector<Rejection>* rejected) {
  const Problem problem = judged_problem(whole, constraints);
  if (constraints.forced != nullptr) {
    const Reason reason = why_not(*constraints.forced, problem, constraints);
    if (reason != Reason::none) {
      throw std::invalid_argument(std::string("forced kernel ") + constraints.forced->name + " " +
                                  to_string(reason) + ": " + to_string(problem));
    }
    return *constraints.forced;
  }
  const Kernel* declined = nullptr;  // the first that supports it
  for (const Kernel& kernel : kernels) {
    if (kernel.pass != problem.pass) continue;
    Reason reason = why_not(kernel, problem, constraints);
    if (reason == Reason::none) {
      reason = why_declined(kernel, problem);
      if (reason == Reason::none) {
        const bool is_reference =
            declined != nullptr && &kernel == &reference_kernel(kernels, problem.pass);
        return is_reference ? *declined : kernel;
      }
      if (declined == nullptr) declined = &kernel;
    }
    if (rejected != nullptr && reason != Reason::dtype) rejected->push_back({&kernel, reason});
  }
  throw std::logic_error("no kernel supports " + to_string(problem));
}

const Kernel& reference_kernel(const KernelList& kernels, Pass pass) {
  const Kernel* last = nullptr;
  for (const Kernel& kernel : kernels) {
    if (kernel.pass == pass) last = &kernel;
  }
  if (last == nullptr) throw std::logic_error("no kernel computes the pass");
  return *last;
}

}  // namespace convkern
