// direct_columnlane: direct convolution with neighbouring output columns in the vector lanes,
// float32, for batches that would not fill the lanes of direct_batchlane.
//
// Rows of x are copied between zeros, columns that a stride keeps apart into parts of their own, so
// that what neighbouring outputs read is adjacent; then direct_batchlane's microkernel runs with
// overlapping unaligned vectors. Lanes beyond the last column are computed and thrown away.
//
// Tasks are (image, group, band of rows). Sums are cut as in direct_batchlane.
#pragma once

#include "cpu/algos/columnlane/forward-inl.h"
#include "cpu/algos/columnlane/grad_input-inl.h"
#include "cpu/algos/columnlane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

constexpr Algorithm algorithm = {choice::kColumnlane, plan_pass<Forward>, plan_pass<GradInput>,
                                 plan_pass<GradWeight>, choice::columnlane_declines};

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
