// Batch normalisation of float64 tensors, compiled for any processor.
#define CONVKERN_VEC "cpu/simd/vec_f64_baseline.h"
#include "cpu/simd/prelude.h"

#include "cpu/norm/loops-inl.h"

namespace convkern::cpu {
const NormLoops norm_f64_baseline = norm_loops<double>();
}  // namespace convkern::cpu
