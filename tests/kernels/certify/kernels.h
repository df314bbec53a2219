// The CPU kernels in terms of integers modulo p: those of the files of kernels/ that are linked,
// under the names of the kernels whose algorithms they run.
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
