// What the direct algorithms share: the axes and shapes of the operands, and the sizes of tasks.
#pragma once

#include "cpu/blocking/images-inl.h"
#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kBandBytes = 384 << 10;       // aimed at, of one thread's buffers
constexpr int64_t kThreadBytes = 8 << 20;       // never exceeded by one thread's buffers
constexpr int64_t kAccumulatorBytes = 1 << 20;  // aimed at, of a thread's weight gradient sums
constexpr int64_t kPartialBytes = 4 << 20;      // of the weight gradient's partial results
constexpr int64_t kMaxChunks = 64;              // of the weight gradient
constexpr int64_t kLeastTasks = 4;              // bands are cut until there are so many
constexpr double kTaskFlops = 1 << 16;          // less is not worth waking a thread for

// Columns of a lane buffer: those of the image and the zeros around them that terms may read.
struct ColumnSpan {
  int64_t low = 0, high = 0;
  ColumnSpan(int64_t width) : high(width - 1) {}
  void cover(const Axis& axis) {
    low = std::min(low, axis.lowest());
    high = std::max(high, axis.highest());
  }
  int64_t width() const { return high - low + 1; }
};

Axis forward_rows(const Problem& p) {
  return {p.OH(), p.R, p.H, p.stride_h, p.dilation_h, -p.pad_h};
}
Axis forward_columns(const Problem& p) {
  return {p.OW(), p.S, p.W, p.stride_w, p.dilation_w, -p.pad_w};
}
// The weight gradient exchanges the roles of outputs and taps.
Axis swap_roles(const Axis& a) { return {a.taps, a.out, a.in, a.tap_step, a.out_step, a.offset}; }

ImageShape x_shape(const Problem& p) { return {p.layout, p.C, p.H, p.W}; }
ImageShape y_shape(const Problem& p) { return {p.layout, p.O, p.OH(), p.OW()}; }

// The most rows, from all `rows` down to `least`, for which make(rows) keeps to the band size.
template <class Make>
int64_t rows_in_band(int64_t rows, int64_t least, const Make& make) {
  while (rows > least && make(rows).bytes() > kBandBytes) rows = std::max(least, (rows + 1) / 2);
  return rows;
}

// Fewer rows than n in a band, where `others` tasks a band would be too few for the threads.
inline int64_t rows_for_threads(int64_t rows, int64_t n, int64_t others) {
  while (n > Vec::kTiles.rows && others * ceil_div(rows, n) < kLeastTasks) n = (n + 1) / 2;
  return n;
}

// Input rows that a band of `rows` outputs reads.
int64_t input_rows(const Axis& axis, int64_t rows) {
  return std::min(axis.in, (rows - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step + 1);
}

// The bytes of all taps, rearranged for a pass.
inline int64_t tap_bytes(const Problem& p) { return whole_lines(p.O * p.Cg * p.R * p.S); }

// Tasks that a thread should have at least.
int64_t task_grain(const Problem& p, int64_t tasks) {
  return std::max<int64_t>(1, static_cast<int64_t>(kTaskFlops * tasks / p.flops()));
}

// Residues of gx modulo the stride for which plans are listed at most, at some 150 bytes each.
constexpr double kMostResidues = 1 << 16;

// A plan of class PassPlan, which is made from the problem, or why there is none: the direct
// algorithms compute a problem of their dtype whose buffers are small enough.
template <class PassPlan>
Planned plan_pass(const Problem& p) {
  if (p.dtype != kDType) return Reason::dtype;
  if (p.empty()) return Reason::empty;
  if (p.beyond_memory()) return Reason::beyond_memory;
  const double residues = 1.0 * std::min(p.stride_h, p.H) * std::min(p.stride_w, p.W);
  if (p.pass == Pass::grad_input && residues > kMostResidues) return Reason::residues;
  auto plan = std::make_unique<const PassPlan>(p);
  // The difference is what a second thread adds.
  if (plan->workspace(2) - plan->workspace(1) > kThreadBytes) return Reason::workspace;
  return plan;
}

}  // namespace
}  // namespace convkern::cpu
