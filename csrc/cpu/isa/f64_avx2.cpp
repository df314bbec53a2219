// The float64 kernels compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#include "cpu/isa/outside.h"

CONVKERN_BEGIN_TARGET("avx2,fma")
#include "cpu/simd/vec_f64_avx2.h"
#include "cpu/algos/direct-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const Kernel f64_avx2[12] = {CONVKERN_F64_KERNELS(avx2)};
}

#endif
