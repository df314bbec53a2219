// The gradient of the forward pass's epilogue y = relu(convolution + bias), in one pass over gy.
// The gradient that reaches the convolution is gy where y > 0 and else 0. The bias gradient is the
// sum of that gradient over each channel.
#pragma once

#include "core/executor.h"
#include "core/problem.h"

namespace convkern::cpu {

// The tensors are float32 (N, channels, ...), dense in `layout`. `pixels` is the number of elements
// in one channel of one image.
struct GradEpilogue {
  int64_t images, channels, pixels;
  Layout layout;
  const float* gy;
  const float* y;  // null without an activation
  // gy where y > 0 and else 0, written only if y is given. A NaN in y passes gy on, as in torch's
  // threshold_backward.
  float* masked;
  float* gb;  // (channels,), or null if not wanted

  // The result is the same for any number of threads. Partial sums belong to fixed parts of the
  // tensor and are added in order, in double.
  void run(const Executor& executor) const;
};

}  // namespace convkern::cpu
