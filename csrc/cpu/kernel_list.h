#pragma once

#include "core/kernel.h"

namespace convkern::cpu {

KernelList kernel_list();

// The kernels of each translation unit, collected by kernel_list.cpp.
extern const Kernel reference_kernels[3];
extern const Kernel direct_baseline[16];
#if defined(__x86_64__)
extern const Kernel direct_avx2[16];
extern const Kernel direct_avx512[16];
#endif

}  // namespace convkern::cpu
