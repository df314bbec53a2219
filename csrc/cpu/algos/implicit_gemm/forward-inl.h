// implicit_gemm forward: y from x, w and b, with bias and ReLU applied in registers.
#pragma once

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

Correlations forward_correlations(const Problem& p) {
  return {p, x_shape(p), y_shape(p), {{forward_rows(p), forward_columns(p), 0, 0, 1, 1, 0}}};
}

void forward(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const Correlations all = forward_correlations(p);
  const auto* w = static_cast<const Real*>(ops.w);
  auto* packed = static_cast<Real*>(workspace);
  const int64_t weights = p.Cg * p.R * p.S;
  pack_panels(p, all, packed, executor,
              [&](size_t, int64_t group, const Panel& panel, Range channels, Real* rows) {
                PanelOfOutputs{weights, p.R * p.S}.pack(w + group * p.Og() * weights, panel,
                                                        channels, rows);
              });
  correlate(p, all, static_cast<const Real*>(ops.x), packed, static_cast<const Real*>(ops.b),
            p.activation == Activation::relu, static_cast<Real*>(ops.out),
            packed + all.groups * all.packed, executor);
}

int64_t forward_workspace(const Problem& p, int threads) {
  return forward_correlations(p).workspace(threads);
}

}  // namespace implicit_gemm
}  // namespace
}  // namespace convkern::cpu
