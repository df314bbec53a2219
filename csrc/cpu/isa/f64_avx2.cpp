// The float64 kernels compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f64_avx2.h"
#include "cpu/simd/prelude.h"

CONVKERN_BEGIN_TARGET("avx2,fma")
#include "cpu/algos/kernels-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const CompiledAlgorithms f64_avx2 = {Algorithms::kAll, KernelDType::f64, Isa::avx2, kLanes};
}  // namespace convkern::cpu

#endif
