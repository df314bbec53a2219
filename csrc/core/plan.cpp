#include "core/plan.h"

#include <iterator>
#include <stdexcept>
#include <string>

namespace convkern {

const char* to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

namespace {
constexpr const char* kIsaNames[] = {// in the order of Isa
                                     "baseline", "avx2", "avx512", "avx512bf16"};
}

const char* to_string(Isa isa) { return kIsaNames[static_cast<size_t>(isa)]; }

Isa parse_isa(std::string_view name) {
  std::string names;
  for (size_t isa = 0; isa < std::size(kIsaNames); ++isa) {
    if (name == kIsaNames[isa]) return static_cast<Isa>(isa);
    names += kIsaNames[isa] + std::string(", ");
  }
  throw std::invalid_argument("ISA must be one of " + names + "got '" + std::string(name) + "'");
}

const char* to_string(Precision precision) {
  switch (precision) {
    case Precision::highest:
      return "highest";
    case Precision::high:
      return "high";
    case Precision::tf32:
      return "tf32";
  }
  return "?";
}

Precision parse_precision(std::string_view name) {
  for (const Precision precision : {Precision::highest, Precision::high}) {
    if (name == to_string(precision)) return precision;
  }
  throw std::invalid_argument("float32 precision must be highest or high, got '" +
                              std::string(name) + "'");
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

const Kernel& choose(const KernelList& kernels, const Problem& problem,
                     const Constraints& constraints, std::vector<Rejection>* rejected) {
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
