// direct_columnlane: direct convolution with neighbouring output columns in the vector lanes. It is
// for batches that would not fill the lanes of direct_batchlane.
//
// Rows of x are copied to a buffer with zeros around them. With a stride, each row is copied as
// several parts, so that the inputs of neighbouring outputs are adjacent (RowLayout). Then the
// microkernel of tiles/correlation-inl.h runs on unaligned vectors that overlap. Lanes beyond the
// last column are computed too, but are not stored.
//
// A task is one band of rows, of one group, of one image. grad_weight is summed in chunks of the
// batch like in direct_batchlane.
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
