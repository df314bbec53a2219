#include "core/plan.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

namespace convkern {

Operands images_from(int64_t image, const Problem& p, const Operands& all) {
  const int64_t x_bytes = image * p.C * p.H * p.W * size_of(p.dtype);
  const int64_t y_bytes = image * p.O * p.OH() * p.OW() * size_of(p.dtype);
  auto from = [](auto* data, int64_t bytes) -> decltype(data) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(data)>>,
                                    const char, char>;
    return data == nullptr ? nullptr : static_cast<Byte*>(data) + bytes;
  };
  Operands operands = all;
  operands.x = from(all.x, x_bytes);
  operands.gy = from(all.gy, y_bytes);
  operands.residual = from(all.residual, y_bytes);
  if (p.pass == Pass::forward) operands.out = from(all.out, y_bytes);
  if (p.pass == Pass::grad_input) operands.out = from(all.out, x_bytes);
  return operands;
}

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
