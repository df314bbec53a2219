// direct_batchlane: direct convolution with one image in each vector lane.
//
// A block of kLanes images is transposed into a buffer whose innermost index is the image. The
// microkernel of tiles/correlation-inl.h computes the result in a second buffer, which is then
// transposed back. Because lanes are images, all kernel sizes, strides and paddings vectorise
// fully, even with few channels. A batch smaller than kLanes leaves lanes empty; direct_columnlane
// is made for that. All three passes are the same correlation (core/axis.h).
//
// A task is one band of rows, of one group, of one block of images. A band is so small that its
// buffers stay in the L2 cache. grad_weight cuts the batch into a fixed number of chunks and sums
// each on its own. The partial sums are then added in order, so that the result does not depend on
// the number of threads.
#pragma once

#include "cpu/algos/batchlane/blocking-inl.h"
#include "cpu/algos/batchlane/forward-inl.h"
#include "cpu/algos/batchlane/grad_input-inl.h"
#include "cpu/algos/batchlane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace batchlane {

constexpr Algorithm algorithm = {choice::kBatchlane, plan_pass<Forward>, plan_pass<GradInput>,
                                 plan_pass<GradWeight>};

}  // namespace batchlane
}  // namespace
}  // namespace convkern::cpu
