// The float32 kernels, and bfloat16 and float16 through them, compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f32_avx2.h"
#include "cpu/simd/prelude.h"

CONVKERN_BEGIN_TARGET("avx2,fma,f16c")
#include "cpu/algos/half/kernels-inl.h"
#include "cpu/algos/kernels-inl.h"
#include "cpu/peak-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const CompiledAlgorithms f32_avx2 = {Algorithms::kAll, KernelDType::f32, Isa::avx2, kLanes};
const CompiledAlgorithms half_avx2 = {HalfAlgorithms::kAll, KernelDType::half, Isa::avx2, kLanes};
const PeakLoop peak_avx2 = kPeakLoop;
}  // namespace convkern::cpu

#endif
