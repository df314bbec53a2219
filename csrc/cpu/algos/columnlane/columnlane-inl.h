// direct_columnlane: direct convolution with neighbouring output columns in the vector lanes,
// float32, for batches that would not fill the lanes of direct_batchlane.
//
// Rows of x are copied between zeros, columns that a stride keeps apart into parts of their own, so
// that what neighbouring outputs read is adjacent; then direct_batchlane's microkernel runs with
// overlapping unaligned vectors. Lanes beyond the last column are computed and thrown away.
//
// Tasks are (image, group, band of rows). Sums are cut as in direct_batchlane.
#pragma once

#include "cpu/algos/columnlane/rows-inl.h"
#include "cpu/algos/columnlane/forward-inl.h"
#include "cpu/algos/columnlane/grad_input-inl.h"
#include "cpu/algos/columnlane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace columnlane {

using cpu::supports;

bool computes(const Problem& p) {
  return cpu::computes<forward_workspace, grad_input_workspace, grad_weight_workspace>(p);
}

// Declines where direct_batchlane, which comes next in the kernel list, is faster and can run.
Reason declines(const Problem& p) {
  return images_fill_more(p) && batchlane::computes(p) ? Reason::empty_lanes : Reason::none;
}

}  // namespace columnlane
}  // namespace
}  // namespace convkern::cpu
