// Sizes of a 2D convolution and the rules they obey.
//
// Templated on the integer so that the same rules serve concrete sizes (int64_t) and the symbolic
// sizes of a tracing compiler. Operand shapes: x (N, C, H, W), w (O, C / groups, R, S),
// b (O), y (N, O, OH, OW).
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

#include "core/host_device.h"

namespace convkern {

template <class Int>
struct Geometry {
  Int N = 1, C = 1, H = 1, W = 1;   // input
  Int O = 1, Cg = 1, R = 1, S = 1;  // weight; Cg = input channels of one group
  Int stride_h = 1, stride_w = 1;
  Int pad_h = 0, pad_w = 0;  // zeros added on each side
  Int dilation_h = 1, dilation_w = 1;
  Int groups = 1;

  CONVKERN_HOST_DEVICE Int kernel_extent_h() const { return dilation_h * (R - 1) + 1; }
  CONVKERN_HOST_DEVICE Int kernel_extent_w() const { return dilation_w * (S - 1) + 1; }
  CONVKERN_HOST_DEVICE Int OH() const { return (H + 2 * pad_h - kernel_extent_h()) / stride_h + 1; }
  CONVKERN_HOST_DEVICE Int OW() const { return (W + 2 * pad_w - kernel_extent_w()) / stride_w + 1; }
  CONVKERN_HOST_DEVICE Int Og() const { return O / groups; }  // output channels of one group
};

// The first rule that `g` breaks, as a sentence that names argument, value and rule; empty when
// all hold. The order is that of the checks in torch.nn.functional.conv2d.
template <class Int>
std::string broken_rule(const Geometry<Int>& g) {
  std::ostringstream message;
  auto pair = [](const Int& h, const Int& w) {
    std::ostringstream text;
    text << "(" << h << ", " << w << ")";
    return text.str();
  };
  if (g.pad_h < 0 || g.pad_w < 0) {
    message << "padding must not be negative, got padding=" << pair(g.pad_h, g.pad_w);
  } else if (g.stride_h < 1 || g.stride_w < 1) {
    message << "stride must be at least 1, got stride=" << pair(g.stride_h, g.stride_w);
  } else if (g.dilation_h < 1 || g.dilation_w < 1) {
    message << "dilation must be at least 1, got dilation=" << pair(g.dilation_h, g.dilation_w);
  } else if (g.groups < 1) {
    message << "groups must be at least 1, got groups=" << g.groups;
  } else if (g.R < 1 || g.S < 1) {
    message << "weight must have a kernel of at least 1x1, got " << pair(g.R, g.S);
  } else if (g.O < g.groups || g.O % g.groups != 0) {
    message << "weight.size(0), the number of output channels, must be a positive multiple of "
            << "groups, got weight.size(0)=" << g.O << " with groups=" << g.groups;
  } else if (g.C != g.Cg * g.groups) {
    message << "input must have weight.size(1) * groups = " << g.Cg * g.groups
            << " channels, got input with " << g.C << " channels (weight.size(1)=" << g.Cg
            << ", groups=" << g.groups << ")";
  } else if ((g.H < 1 || g.W < 1) && g.N != 0 && g.C != 0) {  // N last: it may be unknown yet
    message << "input may be empty in its batch or channels only, got spatial size "
            << pair(g.H, g.W);
  } else if (g.H + 2 * g.pad_h < g.kernel_extent_h() || g.W + 2 * g.pad_w < g.kernel_extent_w()) {
    message << "the dilated kernel must not exceed the padded input, got kernel "
            << pair(g.kernel_extent_h(), g.kernel_extent_w()) << " on padded input "
            << pair(g.H + 2 * g.pad_h, g.W + 2 * g.pad_w);
  }
  return message.str();
}

// The size product or sum that does not fit int64_t, as a sentence; empty when all fit. To be
// called before broken_rule() and before any size is computed or memory allocated.
std::string overflowing_size(const Geometry<int64_t>& g);

}  // namespace convkern
