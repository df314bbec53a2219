// The kernels compiled for AVX-512 (F, DQ, BW, VL).
#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/algos/axis.h"
#include "cpu/kernel_list.h"
#include "cpu/simd/quarter.h"

// GCC 12 reports its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "cpu/simd/vec_avx512.h"
#include "cpu/algos/direct-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const Kernel direct_avx512[16] = CONVKERN_DIRECT_KERNELS(avx512);
}

#endif
