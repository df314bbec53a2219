// A product of the implicit GEMMs is that of two numbers a lane.
#pragma once

namespace convkern::cpu {
namespace {

CONVKERN_INLINE Vec add_product(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

}  // namespace
}  // namespace convkern::cpu
