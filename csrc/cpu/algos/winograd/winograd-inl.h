// winograd: 3x3 convolutions of stride 1 with a quarter (F(4x4, 3x3)) of the products of the direct
// sum, float32 (Lavin and Gray, CVPR 2016).
//
// The transforms amplify rounding errors, see README.md; hence only under precision "high". What is
// out of range is read as zero, so that Inf and NaN spread over their tiles.
//
// Forward and grad_input's tasks are (band of rows of tiles, group, slice of panels). A band's
// tiles are transformed, then, for each panel of output channels, multiplied at every spot of the
// tile (matmul_tile-inl.h) and transformed back while they are in the cache. NCHW tensors pass
// through buffers of pixels.
#pragma once

#include "cpu/algos/winograd/correlate-inl.h"
#include "cpu/algos/winograd/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

// gx is the correlation of gy with the reversed taps.
inline Axis grad_input_axis(int64_t gx_size, int64_t gy_size, int64_t pad) {
  return {gx_size, 3, gy_size, 1, 1, pad - 2};
}

template <class F>
struct Passes {
  template <int64_t (*workspace)(const Problem&, int)>
  static Reason supports(const Problem& p) {
    const bool one = p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1;
    if (p.dtype == DType::f32 && (p.R != 3 || p.S != 3 || !one)) return Reason::not_3x3;
    return cpu::supports<workspace>(p);
  }

  static Reason declines(const Problem& p) { return winograd_declines(p, F::kOut); }

  static Tiles<F> forward_tiles(const Problem& p) {
    return {p, x_shape(p), y_shape(p), forward_rows(p), forward_columns(p)};
  }
  static void forward(const Problem& p, const Operands& ops, void* workspace,
                      const Executor& executor) {
    const int64_t column = p.Cg * 9;
    correlate(p, forward_tiles(p), static_cast<const Real*>(ops.x),
              {static_cast<const Real*>(ops.w), p.Og() * column, column, 9, /*reversed=*/false},
              static_cast<const Real*>(ops.b), p.activation == Activation::relu,
              static_cast<Real*>(ops.out), static_cast<Real*>(workspace), executor);
  }
  static int64_t forward_workspace(const Problem& p, int threads) {
    return forward_tiles(p).workspace(threads);
  }

  static Tiles<F> grad_input_tiles(const Problem& p) {
    return {p, y_shape(p), x_shape(p), grad_input_axis(p.H, p.OH(), p.pad_h),
            grad_input_axis(p.W, p.OW(), p.pad_w)};
  }
  static void grad_input(const Problem& p, const Operands& ops, void* workspace,
                         const Executor& executor) {
    const int64_t term = p.Cg * 9;
    correlate(p, grad_input_tiles(p), static_cast<const Real*>(ops.gy),
              {static_cast<const Real*>(ops.w), p.Og() * term, 9, term, /*reversed=*/true},
              /*bias=*/nullptr, /*relu=*/false, static_cast<Real*>(ops.out),
              static_cast<Real*>(workspace), executor);
  }
  static int64_t grad_input_workspace(const Problem& p, int threads) {
    return grad_input_tiles(p).workspace(threads);
  }

  static void grad_weight(const Problem& p, const Operands& ops, void* workspace,
                          const Executor& executor) {
    winograd::grad_weight<F>(p, ops, workspace, executor);
  }
  static int64_t grad_weight_workspace(const Problem& p, int threads) {
    return GradWeightPlan<F>(p).reduction(p).workspace(threads);
  }

  static constexpr Algorithm algorithm(const char* name) {
    return {
        name,
        {supports<forward_workspace>, forward_workspace, forward},
        {supports<grad_input_workspace>, grad_input_workspace, grad_input},
        {supports<grad_weight_workspace>, grad_weight_workspace, grad_weight},
        declines,
        Precision::high,
    };
  }
};

constexpr Algorithm algorithm_4x4 = Passes<F4x4>::algorithm("winograd_4x4");
constexpr Algorithm algorithm_2x2 = Passes<F2x2>::algorithm("winograd_2x2");

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
