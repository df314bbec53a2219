// The CPU kernels in order of preference: the first that supports a problem runs it.
#include "cpu/kernel_list.h"

namespace convkern::cpu {

KernelList kernel_list() {
  // Indices are passes: 0 forward, 1 grad_input, 2 grad_weight.
  static const Kernel list[] = {
#if defined(__x86_64__)
      batchlane_avx512[0],   batchlane_avx512[1],   batchlane_avx512[2],
      batchlane_avx2[0],     batchlane_avx2[1],     batchlane_avx2[2],
#endif
      batchlane_baseline[0], batchlane_baseline[1], batchlane_baseline[2],
      reference_kernels[0],  reference_kernels[1],  reference_kernels[2],
  };
  return {list, sizeof(list) / sizeof(list[0])};
}

}  // namespace convkern::cpu
