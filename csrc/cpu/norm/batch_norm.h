// Batch normalisation with what stands around it in a model, for training:
//
//   y = activation((x - mean) / sqrt(variance + eps) * weight + bias + residual)
//
// forward and backward. The tensors are (images, channels, pixels), dense in `layout`. Mean and
// variance are those of the batch, or given. The forward pass reads x twice, rarely once more, and
// writes y once. The backward pass reads gy and x twice and writes gx once; the activation's
// derivative is computed again from x, or read from one bit an element where a residual was added.
#pragma once

#include "core/executor.h"
#include "core/kernel.h"
#include "core/problem.h"

namespace convkern::cpu {

struct BatchNorm {
  int64_t images, channels, pixels;
  Layout layout;
  DType dtype;
  Activation activation;  // one that has_slope()
  double eps;

  // Tensors of `dtype`. Null: residual, without one; gy[1], if the result has one gradient only.
  const void *x, *residual, *gy[2];
  // Numbers of images and channels, (images, channels), which are added to the gradient of each
  // pixel; null for none. Not with `kept`.
  const void* gy_images;
  void *y, *gx;
  void* gresidual;  // null if not wanted; may be gy[0] if that is its value, see below
  uint16_t* kept;   // a bit an element: where the slope of a bound is 1; see kept_bytes()

  // Numbers of channels: float64 if the tensors are, and else float32. Weight and bias may be null,
  // for one and zero. mean and invstd are results of the forward pass and arguments of the backward
  // pass. With `given_statistics` they are arguments of both and take no part in derivatives.
  const void *weight, *bias;
  void *mean, *invstd, *gweight, *gbias;
  bool given_statistics;
  // Null, or moved towards the batch's statistics by the forward pass.
  void *running_mean, *running_var;
  double momentum;

  // The results are the same for any number of threads: partial sums belong to fixed parts of the
  // tensors and are added in order. Throws std::bad_alloc.
  void forward(Isa isa, const Executor& executor) const;
  void backward(Isa isa, const Executor& executor) const;

  // Returns whether the passes know the derivative of an activation.
  static bool has_slope(const Activation& activation);
  // Returns the size of `kept`. It is needed with a residual and an activation, which must be a
  // bound then.
  int64_t kept_bytes(Isa isa) const;
  // Returns whether the gradient of the residual is a tensor of its own. It is gy[0] otherwise.
  bool writes_gresidual() const {
    return activation.kind != ActivationKind::none || gy[1] != nullptr || gy_images != nullptr;
  }
};

}  // namespace convkern::cpu
