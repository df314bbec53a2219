// direct_batchlane: direct convolution with an image in each vector lane, float32.
//
// A block of kLanes images is transposed into a buffer with the image innermost, correlated there
// by the register-tiled microkernel, and transposed back. With images in the lanes every kernel
// size, stride and padding vectorises fully, and few channels do not matter; a batch smaller than
// the lanes wastes them. All three passes are the same correlation (see axis.h).
//
// Tasks are (image block, group, band of rows); a band is small enough for its buffers to stay in
// the L2 cache. The weight gradient sums over tasks: it adds a fixed number of chunks, each into
// its own partial result, which are then added in order, so that the result does not depend on
// the number of threads.
#pragma once

#include "cpu/algos/lane_transpose-inl.h"
#include "cpu/algos/correlation_tile-inl.h"
#include "cpu/algos/lane_images-inl.h"
#include "cpu/algos/batchlane/blocking-inl.h"
#include "cpu/algos/batchlane/forward-inl.h"
#include "cpu/algos/batchlane/grad_input-inl.h"
#include "cpu/algos/batchlane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {

template <int64_t (*workspace)(const Problem&, int)>
Reason supports(const Problem& p) {
  if (p.dtype != DType::f32) return Reason::dtype;
  if (p.empty()) return Reason::empty;
  // What a second thread adds.
  if (workspace(p, 2) - workspace(p, 1) > kThreadBytes) return Reason::workspace;
  return Reason::none;
}

}  // namespace
}  // namespace convkern::cpu

// The three kernels of the instruction set.
#define CONVKERN_BATCHLANE_KERNELS(isa)                                              \
  {                                                                                  \
    {"fwd.direct_batchlane.any.f32." #isa, Pass::forward,     Isa::isa, true,        \
     supports<forward_workspace>,          forward_workspace, forward},              \
        {"gx.direct_batchlane.any.f32." #isa, Pass::grad_input,     Isa::isa,  true, \
         supports<grad_input_workspace>,      grad_input_workspace, grad_input},     \
    {                                                                                \
      "gw.direct_batchlane.any.f32." #isa, Pass::grad_weight, Isa::isa, true,        \
          supports<grad_weight_workspace>, grad_weight_workspace, grad_weight        \
    }                                                                                \
  }
