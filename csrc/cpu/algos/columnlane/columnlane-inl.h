// direct_columnlane: direct convolution with neighbouring output columns in the vector lanes,
// float32, for batches that would not fill the lanes of direct_batchlane.
//
// Rows of x are copied between zeros, columns that a stride keeps apart into parts of their own, so
// that what neighbouring outputs read is adjacent; then direct_batchlane's microkernel runs with
// overlapping unaligned vectors. Lanes beyond the last column are computed and thrown away.
//
// Tasks are (image, group, band of rows). Sums are cut as in direct_batchlane.
#pragma once

#include "cpu/algos/batchlane/batchlane-inl.h"
#include "cpu/algos/columnlane/forward-inl.h"
#include "cpu/algos/columnlane/grad_input-inl.h"
#include "cpu/algos/columnlane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

bool computes(const Problem& p) {
  return cpu::computes<forward_workspace, grad_input_workspace, grad_weight_workspace>(p);
}

Reason declines(const Problem& p) {
  return columnlane_declines(p, kLanes, [&] { return batchlane::computes(p); });
}

constexpr Algorithm algorithm = {
    "direct_columnlane",
    {supports<forward_workspace>, forward_workspace, forward},
    {supports<grad_input_workspace>, grad_input_workspace, grad_input},
    {supports<grad_weight_workspace>, grad_weight_workspace, grad_weight},
    declines,
};

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
