// Makes the vectors and algorithms that are included after this file compute in float32.
#pragma once

#include "cpu/simd/prelude.h"

#define CONVKERN_REAL

namespace convkern::cpu {
namespace {

using Real = float;
using Quarter = FloatQuarter;
constexpr DType kDType = DType::f32;

}  // namespace
}  // namespace convkern::cpu
