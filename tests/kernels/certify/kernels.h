// The CPU kernels on integers modulo p. There is one for each algorithm in the linked files of
// kernels/, with the name of the kernel that runs the same algorithm.
#pragma once

#include <vector>

#include "cpu/kernel_list.h"

namespace convkern::cpu {

inline std::vector<Kernel>& mod_kernels() {
  static std::vector<Kernel> list;
  return list;
}

struct AddKernels {
  explicit AddKernels(const CompiledAlgorithms& compiled) { compiled.add_to(mod_kernels()); }
};

}  // namespace convkern::cpu
