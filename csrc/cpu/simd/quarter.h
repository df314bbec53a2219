// Four floats, the unit in which vectors of every width are assembled from memory.
#pragma once

#include "cpu/simd/target_region.h"

namespace convkern::cpu {

typedef float Quarter __attribute__((vector_size(16), may_alias));

}  // namespace convkern::cpu
