// The sizes of a 2D convolution. The rules that they obey are in geometry_rules.h.
//
// The integer type is a template parameter. This lets the same code serve concrete sizes (int64_t)
// and the symbolic sizes of a tracing compiler. The operands have the shapes x (N, C, H, W), w (O,
// C / groups, R, S), b (O) and y (N, O, OH, OW).
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace convkern {

// What the cells around an image hold, by the names of nn.Conv2d's padding_mode: zeros, or values
// of the image. The kernels compute `zeros` (core/padding.h has the rest).
enum class PaddingMode : uint8_t { zeros, reflect, replicate, circular };

template <class Int>
struct Geometry {
  Int N = 1, C = 1, H = 1, W = 1;   // input
  Int O = 1, Cg = 1, R = 1, S = 1;  // weight; Cg = input channels in one group
  Int stride_h = 1, stride_w = 1;
  Int pad_h = 0, pad_w = 0;          // cells before the first row and column
  Int pad_h_end = 0, pad_w_end = 0;  // cells after the last
  Int dilation_h = 1, dilation_w = 1;
  Int groups = 1;
  PaddingMode padding_mode = PaddingMode::zeros;

  CONVKERN_HOST_DEVICE Int padded_h() const { return H + pad_h + pad_h_end; }
  CONVKERN_HOST_DEVICE Int padded_w() const { return W + pad_w + pad_w_end; }
  CONVKERN_HOST_DEVICE Int kernel_extent_h() const { return dilation_h * (R - 1) + 1; }
  CONVKERN_HOST_DEVICE Int kernel_extent_w() const { return dilation_w * (S - 1) + 1; }
  CONVKERN_HOST_DEVICE Int OH() const { return (padded_h() - kernel_extent_h()) / stride_h + 1; }
  CONVKERN_HOST_DEVICE Int OW() const { return (padded_w() - kernel_extent_w()) / stride_w + 1; }
  CONVKERN_HOST_DEVICE Int Og() const { return O / groups; }  // output channels in one group
};

}  // namespace convkern
