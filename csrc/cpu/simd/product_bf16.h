// A product of the implicit GEMMs is that of two pairs of bfloat16 a lane, a[0] * b[0] + a[1] *
// b[1], which AVX512-BF16 adds in float32 (subnormal numbers count as 0).
#pragma once

namespace convkern::cpu {
namespace {

CONVKERN_INLINE __m512bh pairs(Vec a) { return (__m512bh)_mm512_castps_si512(a.v); }

CONVKERN_INLINE Vec add_product(Vec a, Vec b, Vec sum) {
  return {_mm512_dpbf16_ps(sum.v, pairs(a), pairs(b))};
}

}  // namespace
}  // namespace convkern::cpu
