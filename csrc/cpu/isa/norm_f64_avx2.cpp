// Batch normalisation of float64 tensors, compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f64_avx2.h"
#include "cpu/simd/prelude.h"

CONVKERN_BEGIN_TARGET("avx2,fma,f16c")
#include "cpu/norm/loops-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const NormLoops norm_f64_avx2 = norm_loops<double>();
}  // namespace convkern::cpu

#endif
