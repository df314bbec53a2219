// The float32 kernels, and bfloat16 and float16 through them, compiled for any processor.
#include "cpu/isa/outside.h"

#include "cpu/simd/real_f32.h"
#include "cpu/simd/vec_baseline.h"
#include "cpu/algos/direct-inl.h"
#include "cpu/simd/half_baseline.h"
#include "cpu/algos/half/half-inl.h"
#include "cpu/algos/half/widened-inl.h"

namespace convkern::cpu {
const Kernel f32_baseline[18] = {CONVKERN_F32_KERNELS(baseline)};
const Kernel half_baseline[12] = {CONVKERN_HALF_KERNELS(baseline)};
}  // namespace convkern::cpu
