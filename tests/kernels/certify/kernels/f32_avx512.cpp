// The float32 kernels for AVX-512, modulo p.
#define CONVKERN_MOD_DTYPE f32
#define CONVKERN_MOD_LANES 16
#define CONVKERN_MOD_TILES kAvx512Tiles
#define CONVKERN_VEC "vec_mod.h"
#include "cpu/algos/kernels-inl.h"
#include "../kernels.h"

namespace convkern::cpu {
static const AddKernels added({Algorithms::kAll, KernelDType::f32, Isa::avx512, kLanes});
}
