// Batch normalisation of float32, bfloat16 and float16 tensors, compiled for AVX-512 (F, DQ, BW,
// VL).
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f32_avx512.h"
#include "cpu/simd/prelude.h"

// GCC 12 warns about its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include "cpu/norm/loops-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const NormTables norm_f32_avx512 = {norm_loops<float>(), norm_loops<BFloat16>(),
                                    norm_loops<Half>()};
}  // namespace convkern::cpu

#endif
