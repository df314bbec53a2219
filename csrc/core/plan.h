// Which kernel runs a problem: the first of the device's list that supports it.
#pragma once

#include <vector>

#include "core/kernel.h"

namespace convkern {

// Constraints that narrow the choice besides the problem.
struct Constraints {
  Isa available = Isa::baseline;  // of the processor
  Isa cap = Isa::avx512bf16;      // of the configuration
  bool deterministic = false;     // required by the caller
  Precision precision = Precision::highest;
  bool batch_invariant = false;  // required of forward and grad_input, see judged_problem()
  const Kernel* forced = nullptr;
};

struct Rejection {
  const Kernel* kernel;
  Reason reason;
};

// The problem for which kernels are compared, and which the chosen one computes at a time: the
// given one or, where results must not depend on the batch that an image comes in, that of a single
// image, since some kernels divide their work by the number of images.
Problem judged_problem(const Problem& problem, const Constraints& constraints);

// Why the kernel cannot run the problem.
Reason why_not(const Kernel& kernel, const Problem& problem, const Constraints& constraints);

// Why it does not where none is forced: it cannot, or it declines.
Reason why_passed_over(const Kernel& kernel, const Problem& problem,
                       const Constraints& constraints);

// The kernel to run the judged problem: the first that supports the problem and does not decline
// it, but rather than the reference kernel the first that supports it. Appends every kernel of the
// dtype passed over before it to `rejected` if that is given. Throws std::invalid_argument with the
// reason if the forced kernel does not support the problem.
const Kernel& choose(const KernelList& kernels, const Problem& problem,
                     const Constraints& constraints, std::vector<Rejection>* rejected = nullptr);

// The last kernel of the problem's pass.
const Kernel& reference_kernel(const KernelList& kernels, Pass pass);

}  // namespace convkern
