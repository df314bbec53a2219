// The bfloat16 kernels compiled for AVX-512 with AVX512-BF16.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#define CONVKERN_VEC "cpu/simd/vec_f32_avx512.h"
#define CONVKERN_PRODUCT "cpu/simd/product_bf16.h"
#include "cpu/simd/prelude.h"

// GCC 12 warns about its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#include "cpu/algos/half/paired_kernels-inl.h"
CONVKERN_END_TARGET

namespace convkern::cpu {
const CompiledAlgorithms bf16_avx512bf16 = {PairedAlgorithms::kAll, KernelDType::bf16,
                                            Isa::avx512bf16, kLanes};
}  // namespace convkern::cpu

#endif
