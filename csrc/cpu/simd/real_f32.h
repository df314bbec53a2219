// The vectors and algorithms that follow are float32.
#pragma once

#include "core/problem.h"
#include "cpu/simd/quarter.h"

namespace convkern::cpu {
namespace {

using Real = float;
using Quarter = FloatQuarter;
constexpr DType kDType = DType::f32;

}  // namespace
}  // namespace convkern::cpu
