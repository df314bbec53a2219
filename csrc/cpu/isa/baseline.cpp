// The kernels compiled for any processor.
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/algos/axis.h"
#include "cpu/kernel_list.h"
#include "cpu/simd/quarter.h"

#include "cpu/simd/vec_baseline.h"
#include "cpu/algos/batchlane/batchlane-inl.h"

namespace convkern::cpu {
const Kernel batchlane_baseline[3] = CONVKERN_BATCHLANE_KERNELS(baseline);
}
