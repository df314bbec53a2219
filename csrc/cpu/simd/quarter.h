// A quarter is four numbers. Vectors of every width are assembled from quarters in memory.
// Bit i of LaneBits is about lane i of a vector.
#pragma once

#include <cstdint>

#include "cpu/simd/target_region.h"

namespace convkern::cpu {

typedef float FloatQuarter __attribute__((vector_size(16), may_alias));
typedef double DoubleQuarter __attribute__((vector_size(32), may_alias));
using LaneBits = uint32_t;

}  // namespace convkern::cpu
