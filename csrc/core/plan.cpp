#include "core/plan.h"

#include <stdexcept>

namespace convkern {

Plan::~Plan() = default;

int64_t Plan::workspace(int) const { return 0; }

int64_t Plan::packed_bytes() const { return 0; }

void Plan::pack(const void*, void*, const Executor&) const {
  throw std::logic_error("the kernel does not pack weights");
}

Problem Plan::compared(const Problem& problem) const { return problem; }

}  // namespace convkern
