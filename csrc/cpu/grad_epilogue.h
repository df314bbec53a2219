// The gradient of the forward pass's epilogue, y = relu(convolution + bias), in one pass over gy:
// what reaches the convolution is gy where y > 0, and the bias gradient its sum over a channel.
#pragma once

#include "core/executor.h"
#include "core/problem.h"

namespace convkern::cpu {

// float32 tensors (N, channels, ...) of `pixels` elements an image and channel, dense in `layout`.
struct GradEpilogue {
  int64_t images, channels, pixels;
  Layout layout;
  const float* gy;
  const float* y;  // null without an activation
  float* masked;   // gy where y > 0, else 0, as torch's threshold_backward (NaN in y passes gy);
                   // written where y is given
  float* gb;       // (channels,), or null if not wanted

  // Deterministic for any number of threads: partial sums of fixed parts are added in order, in
  // double.
  void run(const Executor& executor) const;
};

}  // namespace convkern::cpu
