// implicit_gemm forward: y from x, w and b, with bias and ReLU applied in registers.
#pragma once

#include "cpu/algos/implicit_gemm/correlate-inl.h"

namespace convkern::cpu {
namespace {
namespace implicit_gemm {

Correlations forward_correlations(const Problem& p) {
  return {p, x_shape(p), y_shape(p), {{forward_rows(p), forward_columns(p), 0, 0, 1, 1, 0}}};
}

void pack_weights(const Problem& p, const Correlations& all, const void* w, void* packed,
                  const Executor& executor) {
  const int64_t weights = p.Cg * p.R * p.S;
  pack_panels(p, all, static_cast<Real*>(packed), executor,
              [&](size_t, int64_t group, const Panel& panel, Range channels, Real* rows) {
                const Real* first = static_cast<const Real*>(w) + group * p.Og() * weights;
                PanelOfOutputs{weights, p.R * p.S}.pack(first, panel, channels, rows);
              });
}

void pack_forward(const Problem& p, const void* w, void* packed, const Executor& executor) {
  pack_weights(p, forward_correlations(p), w, packed, executor);
}

int64_t forward_packed_bytes(const Problem& p) {
  return whole_lines(p.groups * forward_correlations(p).packed);
}

void forward(const Problem& p, const Operands& ops, void* workspace, const Executor& executor) {
  const Correlations all = forward_correlations(p);
  auto* memory = static_cast<Real*>(workspace);
  const auto* packed = static_cast<const Real*>(ops.packed);
  if (packed == nullptr) {
    pack_weights(p, all, ops.w, memory, executor);
    packed = memory;
  }
  correlate(p, all, static_cast<const Real*>(ops.x), packed, static_cast<const Real*>(ops.b),
            p.activation == Activation::relu, static_cast<Result*>(ops.out),
            memory + all.groups * all.packed, executor);
}

int64_t forward_workspace(const Problem& p, int threads) {
  return forward_correlations(p).workspace(threads);
}

}  // namespace implicit_gemm

}  // namespace
}  // namespace convkern::cpu
