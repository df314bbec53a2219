// The grad_input pass of implicit_gemm: computes gx from gy and w. The indices of gx are split by
// their residue modulo the stride. Each residue is one correlation of gy with the taps that reach
// it, so every element of gx is gathered and written once.
#pragma once

#include "cpu/algos/implicit_gemm/correlate-inl.h"
#include "cpu/blocking/residues-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

Correlations grad_input_correlations(const Problem& p, const std::vector<Residue>& list) {
  std::vector<Part> parts;
  for (const Residue& residue : list) {
    parts.push_back({residue.rows.axis, residue.columns.axis, residue.row, residue.column,
                     p.stride_h, p.stride_w, 0});
  }
  return {p, y_shape(p), x_shape(p), std::move(parts)};
}

struct GradInput final : Plan {
  const Problem p;
  const std::vector<Residue> list;
  const Correlations all;

  explicit GradInput(const Problem& problem)
      : p(problem), list(residues(p)), all(grad_input_correlations(p, list)) {}
  int64_t workspace(int threads) const override { return all.workspace(threads); }
  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    auto* packed = static_cast<Real*>(workspace);
    const auto* w = static_cast<const Real*>(ops.w);
    const int64_t group_weights = p.Og() * p.Cg * p.R * p.S;
    pack_panels(p, all, packed, executor,
                [&](size_t part, int64_t group, const Panel& panel, Range outputs, Real* rows) {
                  pack_input_panel(p, list[part], w + group * group_weights, panel, outputs, rows);
                });
    correlate(p, all, static_cast<const Real*>(ops.gy), packed, /*bias=*/nullptr, Epilogue(),
              static_cast<Result*>(ops.out), packed + all.groups * all.packed, executor);
  }
};

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
