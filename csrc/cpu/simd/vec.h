// Selects the vectors that the algorithms are compiled for. CONVKERN_VEC names the file, and the
// files of isa/ define it before they include an algorithm. Without it, as when an editor or a test
// compiles a header on its own, the vectors are float32 on any processor.
#pragma once

#include "cpu/simd/prelude.h"

#ifndef CONVKERN_VEC
#define CONVKERN_VEC "cpu/simd/vec_f32_baseline.h"
#endif
#include CONVKERN_VEC

namespace convkern::cpu {
namespace {

constexpr int kLanes = Vec::kLanes;

// These take a factor that is the same for all lanes.
CONVKERN_INLINE Vec times(const Real& factor, Vec a) { return mul(a, Vec::broadcast(&factor)); }
CONVKERN_INLINE Vec fma(const Real& factor, Vec a, Vec b) {
  return fma(a, Vec::broadcast(&factor), b);
}
CONVKERN_INLINE Vec fnma(const Real& factor, Vec a, Vec b) {
  return fnma(a, Vec::broadcast(&factor), b);
}

}  // namespace
}  // namespace convkern::cpu
