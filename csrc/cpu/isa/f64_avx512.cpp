// The float64 kernels compiled for AVX-512 (F, DQ, BW, VL).
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f64_avx512.h"
#include "cpu/simd/prelude.h"

// GCC 12 warns about its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#include "cpu/algos/kernels-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const CompiledAlgorithms f64_avx512 = {Algorithms::kAll, KernelDType::f64, Isa::avx512, kLanes};
}  // namespace convkern::cpu

#endif
