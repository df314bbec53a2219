// The forward pass of implicit_gemm: computes y from x, w and b. Bias and bounds are applied
// in registers. The caller may pass weights that were packed before.
#pragma once

#include "cpu/algos/implicit_gemm/correlate-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

struct Forward final : Plan {
  const Problem p;
  const Correlations all;

  explicit Forward(const Problem& problem)
      : p(problem),
        all(p, x_shape(p), y_shape(p), {{forward_rows(p), forward_columns(p), 0, 0, 1, 1, 0}}) {}

  int64_t workspace(int threads) const override { return all.workspace(threads); }

  int64_t packed_bytes() const override { return whole_lines(p.groups * all.packed); }

  void pack(const void* w, void* packed, const Executor& executor) const override {
    const int64_t weights = p.Cg * p.R * p.S;
    pack_panels(p, all, static_cast<Real*>(packed), executor,
                [&](size_t, int64_t group, const Panel& panel, Range channels, Real* rows) {
                  const Real* first = static_cast<const Real*>(w) + group * p.Og() * weights;
                  PanelOfOutputs{weights, p.R * p.S}.pack(first, panel, channels, rows);
                });
  }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    auto* memory = static_cast<Real*>(workspace);
    const auto* packed = static_cast<const Real*>(ops.packed);
    if (packed == nullptr) {
      pack(ops.w, memory, executor);
      packed = memory;
    }
    correlate(p, all, static_cast<const Real*>(ops.x), packed, static_cast<const Real*>(ops.b),
              Epilogue(p, ops), static_cast<Result*>(ops.out), memory + all.groups * all.packed,
              executor);
  }
};

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
