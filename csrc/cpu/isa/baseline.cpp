// The kernels compiled for any processor.
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/algos/axis.h"
#include "cpu/kernel_list.h"
#include "cpu/simd/quarter.h"

#include "cpu/simd/vec_baseline.h"
#include "cpu/algos/direct-inl.h"

namespace convkern::cpu {
const Kernel direct_baseline[16] = CONVKERN_DIRECT_KERNELS(baseline);
}
