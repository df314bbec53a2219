// implicit_gemm: convolution as a sum of small matrix products, for layers of many channels.
//
// Each tap is a matrix product: the pixels that the tap reaches, times the tap's weights (channels
// x output channels). A tile (tiles/matmul-inl.h) sums the products of all taps in registers,
// without an im2col matrix. The weights, or gy in grad_weight, are read from panels with one
// channel in each vector lane. The other factor is read in place, one float at a time, so that
// strides and dilation cost nothing and padding is skipped. channels_last images are read and
// written in place. NCHW images pass through buffers of pixels, band by band; grad_weight reads
// NCHW x in place.
//
// A task of forward and grad_input is one band of pixels, for a slice of the panels of one group. A
// task of grad_weight is one chunk of the batch, for some panels and input channels of one group.
#pragma once

#include "cpu/algos/implicit_gemm/forward-inl.h"
#include "cpu/algos/implicit_gemm/grad_input-inl.h"
#include "cpu/algos/implicit_gemm/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

constexpr Algorithm algorithm = {"implicit_gemm", plan_pass<Forward>, plan_pass<GradInput>,
                                 plan_pass<GradWeight>, choice::implicit_gemm_declines};

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
