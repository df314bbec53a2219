// direct_channellane: depthwise convolution, and grouped convolution with few channels in each
// group. Each vector lane has one channel.
//
// All three passes are the same correlation (core/axis.h), one for each vector of channels. Weights
// are packed with the channels innermost. Depthwise channels_last tensors with at least a vector of
// channels are read in place. If the channels are not whole vectors, the last vector overlaps the
// one before it. Other inputs are copied to a buffer whose pixels are one vector, a band of rows at
// a time. Results go through such a buffer too, unless they are whole vectors in channels_last.
//
// A task is one band of rows of an image, for a slice of the channels. A band is so small that it
// stays in the L2 cache. Tensors that are read in place are cut by channels only if there would be
// too few tasks. All vectors of channels of a tile are computed one after the other, so that memory
// is read in order. One vector of channels for all pixels would touch lines far apart, which no
// hardware prefetches.
#pragma once

#include "cpu/algos/channellane/forward-inl.h"
#include "cpu/algos/channellane/grad_input-inl.h"
#include "cpu/algos/channellane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {

namespace channellane {

constexpr Algorithm algorithm = {"direct_channellane", plan_if_grouped<Forward<Real>>,
                                 plan_if_grouped<GradInput<Real>>,
                                 plan_if_grouped<GradWeight<Real>>, choice::channellane_declines};

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
