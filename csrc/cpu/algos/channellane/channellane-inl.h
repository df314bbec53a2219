// direct_channellane: depthwise convolutions, and grouped ones of few channels a group, with a
// channel in each vector lane.
//
// In channels_last tensors the channels of a pixel are adjacent in memory, so that x, gy, y and gx
// are read and written in place, a vector of channels at a time; NCHW images are transposed to
// pixels and back, a vector of channels and a band of rows at a time. The weights are rearranged
// with the channels innermost. What is out of range is left out, not read as zero (Taps::in_place).
// All three passes are the same correlation (see axis.h), one for each vector of channels.
//
// Tasks are (image, band of rows, slice of channels); a band is small enough for the L2 cache. In
// place, channels are cut only where tasks would be too few, and the vectors of a tile's channels
// come after each other, so that memory is read in order: a vector of channels of all pixels at a
// time would touch a cache line here and there, which no hardware prefetches.
#pragma once

#include "cpu/algos/channellane/forward-inl.h"
#include "cpu/algos/channellane/grad_input-inl.h"
#include "cpu/algos/channellane/grad_weight-inl.h"

namespace convkern::cpu {
namespace {

namespace channellane {

constexpr Algorithm algorithm = {"direct_channellane", plan_if_grouped<Forward>,
                                 plan_if_grouped<GradInput>, plan_if_grouped<GradWeight>,
                                 choice::channellane_declines};

}  // namespace channellane
}  // namespace
}  // namespace convkern::cpu
