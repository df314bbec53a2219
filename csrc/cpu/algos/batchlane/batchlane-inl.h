// direct_batchlane: direct convolution with an image in each vector lane.
//
// A block of kLanes images is transposed into a buffer with the image innermost, correlated there
// by the register-tiled microkernel, and transposed back. With images in the lanes every kernel
// size, stride and padding vectorises fully, and few channels do not matter; a batch smaller than
// the lanes wastes them (see direct_columnlane). All three passes are the same correlation (see
// axis.h).
//
// Tasks are (image block, group, band of rows); a band is small enough for its buffers to stay in
// the L2 cache. The weight gradient sums over tasks: it adds a fixed number of chunks, each into
// its own partial result, which are then added in order, so that the result does not depend on
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
