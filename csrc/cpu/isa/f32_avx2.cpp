// The float32 kernels, and bfloat16 and float16 through them, compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#include "cpu/isa/outside.h"

CONVKERN_BEGIN_TARGET("avx2,fma,f16c")
#include "cpu/simd/vec_f32_avx2.h"
#include "cpu/algos/direct-inl.h"
#include "cpu/simd/half_f16c.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const Kernel f32_avx2[18] = {CONVKERN_F32_KERNELS(avx2)};
const Kernel half_avx2[12] = {CONVKERN_HALF_KERNELS(avx2)};
}  // namespace convkern::cpu

#endif
