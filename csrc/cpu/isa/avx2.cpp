// The kernels compiled for AVX2 and FMA.
#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/algos/axis.h"
#include "cpu/kernel_list.h"
#include "cpu/simd/quarter.h"

CONVKERN_BEGIN_TARGET("avx2,fma")
#include "cpu/simd/vec_avx2.h"
#include "cpu/algos/direct-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const Kernel direct_avx2[16] = CONVKERN_DIRECT_KERNELS(avx2);
}

#endif
