#pragma once

#include "core/kernel.h"

namespace convkern::cpu {

KernelList kernel_list();

// The kernels of each translation unit, collected by kernel_list.cpp.
extern const Kernel reference_kernels[3];
extern const Kernel batchlane_baseline[3];
#if defined(__x86_64__)
extern const Kernel batchlane_avx2[3];
extern const Kernel batchlane_avx512[3];
#endif

}  // namespace convkern::cpu
