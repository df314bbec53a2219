// winograd_4x4 and winograd_2x2: float32 convolutions with 3x3 kernels, stride 1 and dilation 1.
// They compute tiles of 4x4 or 2x2 outputs with a quarter, or four ninths, of the products of the
// direct sum (Lavin and Gray, CVPR 2016).
//
// The transforms amplify rounding errors, relative to the largest number of a tile. Those of 2x2
// outputs are as large as torch's errors, so that the kernels run under precision "high". Those of
// 4x4 outputs are ten times as large and need precision "medium". Terms out of range are read as
// zero. Images with results that are not finite, or with a loud number in the part that a task
// reads, are computed by the direct sum (algos/direct-inl.h).
//
// A task of forward and grad_input is one band of rows of tiles, for a slice of the panels of one
// group. It transforms the tiles of the input. For each panel of the result's channels it then
// computes a matrix product for every spot (tiles/matmul-inl.h) and transforms the products back
// while they are in the cache. NCHW tensors pass through buffers of pixels.
#pragma once

#include "cpu/algos/winograd/correlate-inl.h"
#include "cpu/algos/winograd/grad_weight-inl.h"

namespace convkern::cpu {
namespace {
namespace winograd {

// Returns an axis of grad_input: gx is the correlation of gy with the reversed taps.
inline Axis grad_input_axis(int64_t gx_size, int64_t gy_size, int64_t pad) {
  return {gx_size, 3, gy_size, 1, 1, pad - 2};
}

// Makes a plan of class PassPlan, or says why winograd does not compute the problem.
template <class PassPlan>
Planned plan_if_3x3(const Problem& p) {
  const bool one = p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1;
  if (p.dtype == kDType && (p.R != 3 || p.S != 3 || !one)) return Reason::not_3x3;
  return plan_with_direct<PassPlan>(p);
}

// The parts of a plan of forward or grad_input. Images that the transforms cannot vouch for are
// computed by the direct sum.
template <class F>
struct CorrelateParts {
  const Problem p;
  const Tiles<F> tiles;
  const DirectImages direct;

  CorrelateParts(const Problem& problem, const Tiles<F>& tiles)
      : p(problem), tiles(tiles), direct(problem) {}
  bool works() const { return direct.works(); }
  int64_t bytes(int threads) const {
    return Marks::bytes(p.N) + std::max(tiles.workspace(threads), direct.workspace(threads));
  }
  void run_with(const Taps3x3& taps, const Real* transformed_taps, const void* in,
                const Operands& ops, void* workspace, const Executor& executor) const {
    const Marks marks{static_cast<uint8_t*>(workspace)};
    void* memory = static_cast<char*>(workspace) + Marks::bytes(p.N);
    marks.clear(p.N);
    correlate(p, tiles, static_cast<const Real*>(in), taps, transformed_taps,
              static_cast<const Real*>(ops.b), Epilogue(p, ops), static_cast<Real*>(ops.out),
              static_cast<Real*>(memory), marks, executor);
    direct.run_marked(ops, marks, memory, executor);
  }
};

template <class F>
struct Forward final : Plan, CorrelateParts<F> {
  using CorrelateParts<F>::p, CorrelateParts<F>::tiles;

  explicit Forward(const Problem& p)
      : CorrelateParts<F>(p, {p, x_shape(p), y_shape(p), forward_rows(p), forward_columns(p)}) {}
  int64_t workspace(int threads) const override { return this->bytes(threads); }
  // Packed weights are the transformed taps and a copy of the weights for the direct sum. Tasks
  // that transform taps themselves read the weights as they are.
  int64_t packed_bytes() const override {
    return tiles.taps_per_task ? 0 : whole_lines(tiles.shared_floats()) + tap_bytes(p);
  }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    transform_all_taps(p, tiles, taps_of(w), static_cast<Real*>(packed), executor);
    std::memcpy(static_cast<char*>(packed) + whole_lines(tiles.shared_floats()), w,
                p.O * p.Cg * 9 * sizeof(Real));
  }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    Operands all = ops;
    if (ops.packed != nullptr) {
      all.w = static_cast<const char*>(ops.packed) + whole_lines(tiles.shared_floats());
    }
    this->run_with(taps_of(all.w), static_cast<const Real*>(ops.packed), ops.x, all, workspace,
                   executor);
  }
  Taps3x3 taps_of(const void* w) const {
    const int64_t column = p.Cg * 9;
    return {static_cast<const Real*>(w), p.Og() * column, column, 9, /*reversed=*/false};
  }
};

template <class F>
struct GradInput final : Plan, CorrelateParts<F> {
  using CorrelateParts<F>::p;

  explicit GradInput(const Problem& p)
      : CorrelateParts<F>(p, {p, y_shape(p), x_shape(p), grad_input_axis(p.H, p.OH(), p.pad_h),
                              grad_input_axis(p.W, p.OW(), p.pad_w)}) {}
  int64_t workspace(int threads) const override { return this->bytes(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    const int64_t term = p.Cg * 9;
    const Taps3x3 taps{static_cast<const Real*>(ops.w), p.Og() * term, 9, term, /*reversed=*/true};
    this->run_with(taps, nullptr, ops.gy, ops, workspace, executor);
  }
};

template <class F>
constexpr Algorithm algorithm(const char* name, Reason (*declines)(const Candidate&),
                              Precision precision) {
  return {name,
          plan_if_3x3<Forward<F>>,
          plan_if_3x3<GradInput<F>>,
          plan_if_3x3<GradWeight<F>>,
          declines,
          precision};
}
constexpr Algorithm algorithm_4x4 =
    algorithm<F4x4>("winograd_4x4", choice::winograd_4x4_declines, Precision::medium);
constexpr Algorithm algorithm_2x2 =
    algorithm<F2x2>("winograd_2x2", choice::winograd_2x2_declines, Precision::high);

}  // namespace winograd
}  // namespace
}  // namespace convkern::cpu
