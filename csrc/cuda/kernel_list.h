#pragma once

#include "core/kernel.h"

namespace convkern::cuda {

KernelList kernel_list();

// The kernels of each translation unit, collected by kernel_list.cpp.
extern const Kernel direct_kernels[12];
extern const Kernel implicit_gemm_mma_kernels[9];
extern const Kernel implicit_gemm_kernels[3];
extern const Kernel reference_kernels[3];

}  // namespace convkern::cuda
