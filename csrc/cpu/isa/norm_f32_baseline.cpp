// Batch normalisation of float32, bfloat16 and float16 tensors, compiled for any processor.
#define CONVKERN_VEC "cpu/simd/vec_f32_baseline.h"
#include "cpu/simd/prelude.h"

#include "cpu/norm/loops-inl.h"

namespace convkern::cpu {
const NormTables norm_f32_baseline = {norm_loops<float>(), norm_loops<BFloat16>(),
                                      norm_loops<Half>()};
}  // namespace convkern::cpu
