#include "core/plan.h"

#include <algorithm>
#include <stdexcept>

namespace convkern {

Plan::~Plan() = default;

int64_t Plan::workspace(int) const { return 0; }

int64_t Plan::packed_bytes() const { return 0; }

void Plan::pack(const void*, void*, const Executor&) const {
  throw std::logic_error("the kernel does not pack weights");
}

Problem Plan::compared(const Problem& problem) const { return problem; }

Reason beyond_plans(const Problem& p) {
  constexpr double kMostResidues = 1 << 16;  // at some 150 bytes each
  if (p.empty()) return Reason::empty;
  if (p.beyond_memory()) return Reason::beyond_memory;
  const double residues = 1.0 * std::min(p.stride_h, p.H) * std::min(p.stride_w, p.W);
  const bool too_many = p.pass == Pass::grad_input && residues > kMostResidues;
  return too_many ? Reason::residues : Reason::none;
}

}  // namespace convkern
