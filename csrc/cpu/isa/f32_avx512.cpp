// The float32 kernels, and bfloat16 and float16 through them, compiled for AVX-512 (F, DQ, BW, VL).
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f32_avx512.h"
#include "cpu/simd/prelude.h"

// GCC 12 warns about its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "cpu/algos/half/kernels-inl.h"
#include "cpu/algos/kernels-inl.h"
#include "cpu/peak-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const CompiledAlgorithms f32_avx512 = {Algorithms::kAll, KernelDType::f32, Isa::avx512, kLanes};
const CompiledAlgorithms half_avx512 = {HalfAlgorithms::kAll, KernelDType::half, Isa::avx512,
                                        kLanes};
const PeakLoop peak_avx512 = kPeakLoop;
}  // namespace convkern::cpu

#endif
