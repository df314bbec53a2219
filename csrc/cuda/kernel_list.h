// The kernels of CUDA devices, and what the files that compile them offer to their list.
#pragma once

#include <vector>

#include "core/kernel.h"

namespace convkern::cuda {

KernelList kernel_list();

// Append the kernels of a file, in order of preference.
void add_implicit_gemm_mma(std::vector<Kernel>& kernels);
void add_direct(std::vector<Kernel>& kernels);
void add_implicit_gemm(std::vector<Kernel>& kernels);
void add_reference(std::vector<Kernel>& kernels);

// Appends the kernels of an algorithm for a dtype.
inline void add_kernels(const Algorithm& algorithm, KernelDType dtype,
                        std::vector<Kernel>& kernels) {
  convkern::add_kernels(algorithm, {dtype, Device::cuda, Isa::baseline}, kernels);
}

}  // namespace convkern::cuda
