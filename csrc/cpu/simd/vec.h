// The vectors that the algorithms are compiled for: those of the file that CONVKERN_VEC names,
// which the files of isa/ define before they include an algorithm. Where none is named, as when an
// editor or a test compiles a header on its own, they are float32 vectors of any processor.
#pragma once

#include "cpu/simd/prelude.h"

#ifndef CONVKERN_VEC
#define CONVKERN_VEC "cpu/simd/vec_f32_baseline.h"
#endif
#include CONVKERN_VEC

namespace convkern::cpu {
namespace {

constexpr int kLanes = Vec::kLanes;

}  // namespace
}  // namespace convkern::cpu
