// The axes and shapes of the operands, and the limits that size tasks and their buffers. All CPU
// algorithms use them.
#pragma once

#include "cpu/blocking/images-inl.h"
#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {

constexpr int64_t kBandBytes = 384 << 10;       // target for the bytes of one thread's buffers
constexpr int64_t kThreadBytes = 8 << 20;       // the most bytes that one thread's buffers may take
constexpr int64_t kAccumulatorBytes = 1 << 20;  // target for one thread's sums in grad_weight
constexpr int64_t kPartialBytes = 4 << 20;      // target for all partial sums of grad_weight
constexpr int64_t kMaxChunks = 64;              // the most chunks of the batch in grad_weight
constexpr int64_t kLeastTasks = 4;              // bands are cut until there are so many tasks
constexpr double kTaskFlops = 1 << 16;          // fewer operations are not worth waking a thread

// The columns of a lane buffer, counted like those of the image. They are the image's own columns
// and those around it, stored as zeros, that terms may read.
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
// Returns the axis with outputs and taps exchanged. grad_weight is forward with these roles
// exchanged.
Axis swap_roles(const Axis& a) { return {a.taps, a.out, a.in, a.tap_step, a.out_step, a.offset}; }

ImageShape x_shape(const Problem& p) { return {p.layout, p.C, p.H, p.W}; }
ImageShape y_shape(const Problem& p) { return {p.layout, p.O, p.OH(), p.OW()}; }

// Returns `rows`, halved until the buffers make(rows) take at most kBandBytes, but at least
// `least`.
template <class Make>
int64_t rows_in_band(int64_t rows, int64_t least, const Make& make) {
  while (rows > least && make(rows).bytes() > kBandBytes) rows = std::max(least, (rows + 1) / 2);
  return rows;
}

// Returns how many of `rows` rows a band should have: n, or fewer if bands of n rows would make too
// few tasks for the threads. Each band has `others` tasks that threads may share.
inline int64_t rows_for_threads(int64_t rows, int64_t n, int64_t others) {
  while (n > Vec::kTiles.rows && others * ceil_div(rows, n) < kLeastTasks) n = (n + 1) / 2;
  return n;
}

// The tasks of a kernel. Each computes a band of rows of one group of channels, for an image or for
// a block of images. Threads take adjacent tasks. In channels_last these are the groups of a band,
// whose results share lines of the cache: threads that write to the same line wait for each other,
// and were measured to take ten times as long. In NCHW they are the bands of a group, which read
// the same taps.
struct GroupTasks {
  int64_t images, groups, bands;  // images: or blocks of them
  bool by_bands;                  // whether the groups of a band are adjacent

  GroupTasks(const Problem& p, int64_t images, int64_t bands)
      : images(images), groups(p.groups), bands(bands), by_bands(p.layout == Layout::nhwc) {}
  int64_t count() const { return images * groups * bands; }
  int64_t image(int64_t task) const { return task / (groups * bands); }
  int64_t group(int64_t task) const { return by_bands ? task % groups : task / bands % groups; }
  int64_t band(int64_t task) const { return by_bands ? task / groups % bands : task % bands; }
  // Returns how many tasks a band has that do not share lines of the cache.
  static int64_t of_band(const Problem& p, int64_t images) {
    return p.layout == Layout::nhwc ? images : images * p.groups;
  }
};

// Returns the most input rows that a band of `rows` output rows reads.
int64_t input_rows(const Axis& axis, int64_t rows) {
  return std::min(axis.in, (rows - 1) * axis.out_step + (axis.taps - 1) * axis.tap_step + 1);
}

// Returns the bytes of all taps, packed for a pass.
inline int64_t tap_bytes(const Problem& p) { return whole_lines(p.O * p.Cg * p.R * p.S); }

// Returns the fewest tasks that are worth waking a thread.
int64_t task_grain(const Problem& p, int64_t tasks) {
  return std::max<int64_t>(1, static_cast<int64_t>(kTaskFlops * tasks / p.flops()));
}

// Makes a plan of class PassPlan, or says why there is none. Plans are made for problems whose
// buffers take at most kThreadBytes in each thread, if is_complete(plan) holds: the plans that it
// is made of could be made too.
template <class PassPlan, class IsComplete>
Planned plan_within_memory(const Problem& p, const IsComplete& is_complete) {
  const Reason beyond = beyond_plans(p);
  if (beyond != Reason::none) return beyond;
  auto plan = std::make_unique<const PassPlan>(p);
  // The difference is the memory that a second thread adds.
  const bool fits = plan->workspace(2) - plan->workspace(1) <= kThreadBytes;
  if (!fits || !is_complete(*plan)) return Reason::workspace;
  return plan;
}

template <class PassPlan>
Planned plan_within_memory(const Problem& p) {
  return plan_within_memory<PassPlan>(p, [](const PassPlan&) { return true; });
}

// Makes such a plan for problems of this dtype only.
template <class PassPlan, class... IsComplete>
Planned plan_pass(const Problem& p, const IsComplete&... is_complete) {
  if (p.dtype != kDType) return Reason::dtype;
  return plan_within_memory<PassPlan>(p, is_complete...);
}

}  // namespace
}  // namespace convkern::cpu
