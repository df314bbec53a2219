#include "core/choose.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/padding.h"

namespace convkern {

const Kernel& reference_kernel(const KernelList& kernels, Pass pass) {
  for (const Kernel* kernel = kernels.end(); kernel-- != kernels.begin();) {
    if (kernel->pass == pass) return *kernel;
  }
  throw std::logic_error("no kernel computes the pass");
}

// Returns the problem, or the same one with rows and columns exchanged if images and kernel are one
// column wide. All operands have the same bytes in both. Kernels fill their lanes and buffers along
// the rows of images.
static Problem along_rows(const Problem& problem) {
  if (problem.padded_w() != 1 || problem.S != 1 || problem.W != 1) return problem;
  Problem turned = problem;
  std::swap(turned.H, turned.W);
  std::swap(turned.R, turned.S);
  std::swap(turned.pad_h, turned.pad_w);
  std::swap(turned.pad_h_end, turned.pad_w_end);
  std::swap(turned.stride_h, turned.stride_w);
  std::swap(turned.dilation_h, turned.dilation_w);
  return turned;
}

Chooser::Chooser(const KernelList& kernels, const Problem& whole, const Constraints& constraints)
    : kernels_(kernels), whole_(whole), problem_(along_rows(whole)), constraints_(constraints) {
  attempts_.reserve(8);
  if (constraints.batch_invariant && whole.pass != Pass::grad_weight) {
    problem_.N = std::min<int64_t>(whole.N, 1);
  }
}

Planned& Chooser::planned(const Kernel& kernel) {
  for (Attempt& attempt : attempts_) {
    if (attempt.kernel == &kernel) return attempt.planned;
  }
  attempts_.push_back({&kernel, plan_with_padding(kernel.plan, problem_, kernels_.padding)});
  return attempts_.back().planned;
}

bool Chooser::supports(const Kernel& like, const char* algorithm) {
  for (const Kernel& kernel : kernels_) {
    const bool sibling =
        kernel.pass == like.pass && kernel.dtype == like.dtype && kernel.isa == like.isa;
    if (sibling && std::strcmp(kernel.algorithm, algorithm) == 0) {
      return planned(kernel).reason == Reason::none;
    }
  }
  return false;
}

Reason Chooser::why_barred(const Kernel& kernel) const {
  if (kernel.isa > constraints_.available) return Reason::isa_not_available;
  if (kernel.isa > constraints_.cap) return Reason::isa_capped;
  if (constraints_.deterministic && !kernel.deterministic) return Reason::not_deterministic;
  return Reason::none;
}

Reason Chooser::why_not(const Kernel& kernel) {
  const Reason barred = why_barred(kernel);
  if (barred != Reason::none) return barred;
  const Reason reason = planned(kernel).reason;
  if (reason == Reason::none && kernel.precision > constraints_.precision) {
    return kernel.precision == Precision::tf32 ? Reason::tf32 : Reason::precision;
  }
  return reason;
}

Reason Chooser::why_declined(const Kernel& kernel, const Problem& compared) {
  auto supported_by = [&](const char* algorithm) { return supports(kernel, algorithm); };
  return kernel.declines({compared, kernel.lanes, supported_by});
}

Reason Chooser::why_passed_over(const Kernel& kernel) {
  const Reason reason = why_not(kernel);
  if (reason != Reason::none || kernel.declines == nullptr) return reason;
  return why_declined(kernel, planned(kernel).plan->compared(problem_));
}

const Kernel& Chooser::choose(std::vector<Rejection>* rejected) {
  if (constraints_.forced != nullptr) {
    const Reason reason = why_not(*constraints_.forced);
    if (reason != Reason::none) {
      throw std::invalid_argument(std::string("forced kernel ") + constraints_.forced->name + " " +
                                  to_string(reason) + ": " + to_string(whole_));
    }
    return *constraints_.forced;
  }
  const bool plain = rejected == nullptr && beyond_plans(problem_) == Reason::none;
  for (const Kernel& kernel : kernels_) {
    if (kernel.pass != problem_.pass) continue;
    if (plain && is_passed_over_unplanned(kernel)) continue;
    const Reason reason = why_passed_over(kernel);
    if (reason == Reason::none) {
      const bool is_reference = &kernel == &reference_kernel(kernels_, problem_.pass);
      return is_reference ? first_that_supports() : kernel;
    }
    if (rejected != nullptr && reason != Reason::dtype) rejected->push_back({&kernel, reason});
  }
  throw std::logic_error("no kernel supports " + to_string(whole_));
}

bool Chooser::is_passed_over_unplanned(const Kernel& kernel) {
  if (kernel.precision > constraints_.precision || why_barred(kernel) != Reason::none) return true;
  const bool is_compared_as_it_is =
      (kernel.dtype == KernelDType::f32 && problem_.dtype == DType::f32) ||
      (kernel.dtype == KernelDType::f64 && problem_.dtype == DType::f64);
  if (!is_compared_as_it_is || kernel.declines == nullptr) return false;
  const bool padded = problem_.padding_mode != PaddingMode::zeros;
  const Problem compared = padded ? PaddedParts(problem_, kernels_.padding).largest : problem_;
  return why_declined(kernel, compared) != Reason::none;
}

const Kernel& Chooser::first_that_supports() {
  for (const Kernel& kernel : kernels_) {
    if (kernel.pass == problem_.pass && why_not(kernel) == Reason::none) return kernel;
  }
  throw std::logic_error("no kernel supports " + to_string(whole_));
}

std::unique_ptr<const Plan> Chooser::take_plan(const Kernel& kernel) {
  return std::move(planned(kernel).plan);
}

}  // namespace convkern
