// implicit_gemm: convolution as sums of small matrix products, for layers of many channels.
//
// For each tap, the pixels that it reaches times the tap's weights (channels x output channels) is
// a matrix product; those of all taps are summed in the registers of one tile
// (matmul_tile-inl.h), without an im2col matrix. The weights, or gy in grad_weight, are read from
// panels with a channel in each vector lane; the other factor is read a float at a time where it
// is, so that strides and dilation cost nothing and padding is left out. channels_last images are
// read and written in place; NCHW images band by band through buffers of pixels, but for x in
// grad_weight.
//
// Tasks of forward and grad_input are (band of pixels, group, slice of the panels), those of
// grad_weight (chunk of the batch's pixels, group, panel, slice of the channels).
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
