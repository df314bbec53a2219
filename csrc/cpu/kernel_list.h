#pragma once

#include "core/kernel.h"

namespace convkern::cpu {

KernelList kernel_list();

// The kernels of each translation unit, collected by kernel_list.cpp.
extern const Kernel reference_kernels[3];
extern const Kernel f32_baseline[18];
extern const Kernel f64_baseline[12];
extern const Kernel half_baseline[12];
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)
extern const Kernel f32_avx2[18];
extern const Kernel f64_avx2[12];
extern const Kernel half_avx2[12];
extern const Kernel f32_avx512[18];
extern const Kernel f64_avx512[12];
extern const Kernel half_avx512[12];
extern const Kernel bf16_avx512bf16[3];
#endif

}  // namespace convkern::cpu
