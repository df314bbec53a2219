// Passes over images that have no products to sum over channels: what stands between the
// convolutions of a program (program.h). Images are in channels_last.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <vector>

#include "convkern.h"

namespace convkern::torch_binding {

class Pass {
 public:
  virtual ~Pass() = default;
  // Computes y, whose memory is there. All tensors have their channels adjacent.
  virtual void run(const std::vector<at::Tensor>& inputs, const at::Tensor& y,
                   const convkern_executor* executor) const = 0;
};

// y = concatenation of the inputs along the channels, of which channel c of y is channel index[c].
// The inputs have `widths` channels. If scale and shift are defined, float32 with a number for each
// channel of y, it is y * scale + shift, and with `relu` at least 0.
std::shared_ptr<Pass> pick_channels(const std::vector<int64_t>& widths,
                                    const std::vector<int64_t>& index, const at::Tensor& scale,
                                    const at::Tensor& shift, bool relu);

// y = x * scale, in float32. The scale has one number for each image and channel, (N, C, 1, 1).
std::shared_ptr<Pass> scale_channels();

// y = the mean over the pixels of x for each image and channel, (N, C, 1, 1), in float32.
std::shared_ptr<Pass> mean_of_pixels();

// y = the maxima over windows of x, in float32, as torch's max_pool2d. All are (rows, columns).
using Pair = std::array<int64_t, 2>;
std::shared_ptr<Pass> max_of_windows(Pair size, Pair stride, Pair padding, Pair dilation);

}  // namespace convkern::torch_binding
