// Which kernel runs a problem: the first of the device's list that supports it and does not leave
// it to a later one.
#pragma once

#include <memory>
#include <vector>

#include "core/kernel.h"

namespace convkern {

// Constraints that narrow the choice besides the problem.
struct Constraints {
  Isa available = Isa::baseline;  // of the processor
  Isa cap = Isa::avx512bf16;      // of the configuration
  bool deterministic = false;     // required by the caller
  Precision precision = Precision::high;
  bool batch_invariant = false;  // required of forward and grad_input, see Chooser::problem()
  const Kernel* forced = nullptr;
};

struct Rejection {
  const Kernel* kernel;
  Reason reason;
};

// The last kernel of the pass.
const Kernel& reference_kernel(const KernelList& kernels, Pass pass);

// The kernels of a device before one problem. The plan of each kernel is made when it is first
// asked for, and at most once.
class Chooser {
 public:
  Chooser(const KernelList& kernels, const Problem& whole, const Constraints& constraints);

  // The problem for which kernels are compared, and which the chosen one computes at a time: the
  // whole one or, where results must not depend on the batch that an image comes in, that of a
  // single image, since some kernels divide their work by the number of images. Images of one
  // column are turned to one row.
  const Problem& problem() const { return problem_; }

  // Why the kernel cannot run the problem; Reason::none if it can.
  Reason why_not(const Kernel& kernel);

  // Why the kernel does not run the problem where none is forced: it cannot, or it declines.
  Reason why_passed_over(const Kernel& kernel);

  // The kernel to run the problem: the first that supports it and does not decline it, but rather
  // than the reference kernel the first that supports it. Appends every kernel of the dtype passed
  // over before it to `rejected` if that is given. Throws std::invalid_argument with the reason if
  // the forced kernel does not support the problem.
  const Kernel& choose(std::vector<Rejection>* rejected = nullptr);

  // The plan of a kernel that supports the problem, which the caller then owns. The chooser is not
  // asked about that kernel any more.
  std::unique_ptr<const Plan> take_plan(const Kernel& kernel);

 private:
  struct Attempt {
    const Kernel* kernel;
    Planned planned;
  };
  Planned& planned(const Kernel& kernel);
  // Why the constraints bar the kernel from every problem; Reason::none if they do not.
  Reason why_barred(const Kernel& kernel) const;
  Reason why_declined(const Kernel& kernel, const Problem& compared);
  // Returns whether a kernel is passed over whatever its plan is: it is barred, not accurate
  // enough, or declines the problem. Most calls choose a kernel without making the plans of those
  // before it.
  bool is_passed_over_unplanned(const Kernel& kernel);
  // Of all kernels, where each that supports the problem declines it.
  const Kernel& first_that_supports();
  bool supports(const Kernel& like, const char* algorithm);

  KernelList kernels_;
  Problem whole_;  // as it was given, for messages
  Problem problem_;
  Constraints constraints_;
  std::vector<Attempt> attempts_;  // in the order of the kernels' first use
};

}  // namespace convkern
