// The list of kernels for CUDA devices, and the functions by which files add their kernels.
#pragma once

#include <vector>

#include "core/kernel.h"
#include "core/padding.h"

namespace convkern::cuda {

KernelList kernel_list();

extern const PaddingFunctions padding_functions;

// Each appends the kernels of one file, in order of preference.
void add_implicit_gemm_mma(std::vector<Kernel>& kernels);
void add_direct(std::vector<Kernel>& kernels);
void add_implicit_gemm(std::vector<Kernel>& kernels);
void add_reference(std::vector<Kernel>& kernels);

// Appends the kernels of one algorithm for one dtype.
inline void add_kernels(const Algorithm& algorithm, KernelDType dtype,
                        std::vector<Kernel>& kernels) {
  convkern::add_kernels(algorithm, {dtype, Device::cuda, Isa::baseline}, kernels);
}

}  // namespace convkern::cuda
