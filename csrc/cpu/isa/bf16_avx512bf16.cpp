// The bfloat16 kernels compiled for AVX-512 with AVX512-BF16.
#if defined(__x86_64__) && !defined(CONVKERN_PORTABLE)

#include "cpu/isa/outside.h"

// GCC 12 reports its own _mm512_undefined_ps() (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

CONVKERN_BEGIN_TARGET("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#include "cpu/simd/vec_f32_avx512.h"
#include "cpu/simd/product_bf16.h"
#include "cpu/algos/shared-inl.h"
#include "cpu/algos/implicit_gemm/implicit_gemm-inl.h"
#include "cpu/simd/half_f16c.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/pairs-inl.h"
CONVKERN_END_TARGET

#define CONVKERN_PAIRS_KERNEL(short_name, pass)                                            \
  row(#short_name ".implicit_gemm.any.bf16.avx512bf16", Pass::pass, Isa::avx512bf16,       \
      half::through<half::Pairs, implicit_gemm::supports<implicit_gemm::pass##_workspace>, \
                    implicit_gemm::pass##_workspace, implicit_gemm::pass, half::pairs_decline>())

namespace convkern::cpu {
const Kernel bf16_avx512bf16[3] = {
    CONVKERN_PAIRS_KERNEL(fwd, forward),
    CONVKERN_PAIRS_KERNEL(gx, grad_input),
    CONVKERN_PAIRS_KERNEL(gw, grad_weight),
};
}  // namespace convkern::cpu

#endif
