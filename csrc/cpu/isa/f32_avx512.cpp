// The float32 kernels, and bfloat16 and float16 through them, compiled for AVX-512 (F, DQ, BW, VL).
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#include "cpu/isa/outside.h"

// GCC 12 reports its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "cpu/simd/vec_f32_avx512.h"
#include "cpu/algos/direct-inl.h"
#include "cpu/simd/half_f16c.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const Kernel f32_avx512[18] = {CONVKERN_F32_KERNELS(avx512)};
const Kernel half_avx512[12] = {CONVKERN_HALF_KERNELS(avx512)};
}  // namespace convkern::cpu

#endif
