// Batch normalisation of float32, bfloat16 and float16 tensors, compiled for AVX2 and FMA.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f32_avx2.h"
#include "cpu/simd/prelude.h"

CONVKERN_BEGIN_TARGET("avx2,fma,f16c")
#include "cpu/norm/loops-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const NormTables norm_f32_avx2 = {norm_loops<float>(), norm_loops<BFloat16>(), norm_loops<Half>()};
}  // namespace convkern::cpu

#endif
