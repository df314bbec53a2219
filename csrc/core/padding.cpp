#include "core/padding.h"

#include <algorithm>
#include <utility>

#include "core/axis.h"

namespace convkern {
namespace {

// A part has at least this many times the weights' bytes: kernels repack all weights for each part.
constexpr int64_t kPartWeights = 2;
// Kernels that have an image in each lane of a vector, 16 at most, have the fewest empty ones if
// parts have a multiple of so many images.
constexpr int64_t kLanes = 16;
// A batch of several parts has a multiple of so many, so that few threads have equal shares.
constexpr int64_t kPartsAtOnce = 4;
// The gradient of the weights is summed in at most so many sums of adjacent parts, whatever the
// number of threads, so that this does not change the result.
constexpr int64_t kMostSums = 8;

int64_t whole_lines(int64_t bytes) { return ceil_div(bytes, 64) * 64; }

// The thread that calls it.
class OneThread final : public Executor {
 public:
  int threads() const override { return 1; }
  void run(int64_t count, int64_t, Body body) const override {
    if (count > 0) body(0, count, 0);
  }
};

class PaddedPlan final : public Plan {
 public:
  PaddedPlan(const Problem& p, const PaddingFunctions* functions)
      : p_(p), functions_(*functions), parts_(p, functions) {
    const bool sums = p.pass == Pass::grad_weight;
    tasks_ = sums ? std::min(parts_.count, kMostSums) : parts_.count;
  }

  // Makes the plans of the parts. Returns Reason::none, or why the kernel does not compute them.
  Reason plan_parts(MakePlan make_plan) {
    Planned largest = make_plan(parts_.largest);
    if (largest.reason != Reason::none) return largest.reason;
    largest_ = std::move(largest.plan);
    Problem part = parts_.largest;
    part.N = p_.N - (parts_.count - 1) * parts_.largest.N;
    if (part.N == parts_.largest.N) return Reason::none;
    Planned last = make_plan(part);
    last_ = std::move(last.plan);
    return last.reason;
  }

  // The threads share a part, or each has parts of its own.
  int64_t workspace(int threads) const override {
    const int64_t shared = task_bytes(threads);
    const int64_t own = shares_out(threads) ? threads * task_bytes(1) : 0;
    return sum_bytes() + std::max(shared, own);
  }
  int64_t packed_bytes() const override { return largest_->packed_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    largest_->pack(w, packed, executor);
  }
  // A part may have so few images that a kernel with an image in each lane has mostly empty ones.
  Problem compared(const Problem&) const override { return largest_->compared(parts_.largest); }

  void run(const Operands& ops, void* workspace, const Executor& executor) const override {
    char* sums = static_cast<char*>(workspace);
    char* rest = sums + sum_bytes();
    if (shares_out(executor.threads())) {
      const int64_t own = task_bytes(1);
      executor.run(tasks_, 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t task = begin; task < end; ++task) {
          run_task(task, ops, sums, rest + thread * own, OneThread());
        }
      });
    } else {
      for (int64_t task = 0; task < tasks_; ++task) run_task(task, ops, sums, rest, executor);
    }
    if (p_.pass != Pass::grad_weight) return;
    for (int64_t task = 1; task < tasks_; ++task) {
      functions_.add(p_.dtype, sums + (task - 1) * weight_bytes(), weights(), ops.out, executor);
    }
  }

 private:
  bool shares_out(int threads) const { return threads > 1 && tasks_ >= threads; }

  // Runs the parts of a task, whose gradients of the weights it adds up.
  void run_task(int64_t task, const Operands& ops, char* sums, char* workspace,
                const Executor& executor) const {
    const int64_t first = parts_.count * task / tasks_;
    const int64_t end = parts_.count * (task + 1) / tasks_;
    void* sum = task == 0 ? ops.out : sums + (task - 1) * weight_bytes();
    for (int64_t part = first; part < end; ++part) {
      Operands some = images_from(part * parts_.largest.N, p_, ops);
      if (p_.pass == Pass::grad_weight) some.out = part == first ? sum : workspace;
      run_part(part, some, workspace + added_bytes(), executor);
      if (part > first) functions_.add(p_.dtype, workspace, weights(), sum, executor);
    }
  }

  void run_part(int64_t part, Operands some, char* workspace, const Executor& executor) const {
    const bool is_last = part == parts_.count - 1 && last_ != nullptr;
    const Plan& plan = is_last ? *last_ : *largest_;
    const int64_t images = std::min(parts_.largest.N, p_.N - part * parts_.largest.N);
    const PaddedPlanes planes(p_, images);
    char* rest = workspace + image_bytes();
    if (p_.pass == Pass::grad_input) {
      void* gx = std::exchange(some.out, workspace);
      plan.run(some, rest, executor);
      functions_.fold(planes, workspace, gx, executor);
      return;
    }
    if (planes.padded_elements() > 0) functions_.pad(planes, some.x, workspace, executor);
    some.x = workspace;
    plan.run(some, rest, executor);
  }

  int64_t weights() const { return p_.O * p_.Cg * p_.R * p_.S; }
  int64_t weight_bytes() const { return whole_lines(weights() * size_of(p_.dtype)); }
  // Of the sums of all tasks but the first, which is the result.
  int64_t sum_bytes() const {
    return p_.pass == Pass::grad_weight ? (tasks_ - 1) * weight_bytes() : 0;
  }
  // Of the gradient of the weights by one part, before it is added to the sum of its task.
  int64_t added_bytes() const {
    return p_.pass == Pass::grad_weight && parts_.count > tasks_ ? weight_bytes() : 0;
  }
  int64_t image_bytes() const {
    return whole_lines(PaddedPlanes(p_, parts_.largest.N).padded_elements() * size_of(p_.dtype));
  }
  int64_t task_bytes(int threads) const {
    const int64_t last = last_ == nullptr ? 0 : last_->workspace(threads);
    const int64_t kernel = std::max(largest_->workspace(threads), last);
    return added_bytes() + image_bytes() + whole_lines(kernel);
  }

  const Problem p_;
  const PaddingFunctions& functions_;
  const PaddedParts parts_;
  int64_t tasks_;
  std::unique_ptr<const Plan> largest_, last_;  // `last_` is null if all parts are equal
};

Problem with_padded_images(Problem p) {
  p.H = p.padded_h(), p.W = p.padded_w();
  p.pad_h = p.pad_h_end = p.pad_w = p.pad_w_end = 0;
  p.padding_mode = PaddingMode::zeros;
  return p;
}

}  // namespace

PaddedPlanes::PaddedPlanes(const Problem& p, int64_t images)
    : dtype(p.dtype),
      planes(p.layout == Layout::nchw ? images * p.C : images),
      unit(p.layout == Layout::nchw ? 1 : p.C),
      rows(padded_rows(p)),
      columns(padded_columns(p)) {}

// A gradient of weights in 16 bits is computed in one part, because the sum of rounded parts is not
// accurate enough.
PaddedParts::PaddedParts(const Problem& p, const PaddingFunctions* functions)
    : largest(with_padded_images(p)), count(1) {
  const bool whole = p.pass == Pass::grad_weight && size_of(p.dtype) < 4;
  if (whole || p.N <= 1) return;
  const int64_t image = std::max<int64_t>(1, p.C * largest.H * largest.W * size_of(p.dtype));
  const int64_t weights = kPartWeights * p.O * p.Cg * p.R * p.S * size_of(p.dtype);
  const int64_t images = std::max<int64_t>(1, std::max(functions->part_bytes, weights) / image);
  const int64_t parts = ceil_div(ceil_div(p.N, images), kPartsAtOnce) * kPartsAtOnce;
  largest.N = images < p.N ? ceil_div(p.N, std::min(parts, p.N)) : p.N;
  if (largest.N > kLanes) largest.N = std::min(p.N, ceil_div(largest.N, kLanes) * kLanes);
  count = ceil_div(p.N, largest.N);
}

Planned plan_with_padding(MakePlan make_plan, const Problem& p, const PaddingFunctions* functions) {
  if (p.padding_mode == PaddingMode::zeros) return make_plan(p);
  auto plan = std::make_unique<PaddedPlan>(p, functions);
  const Reason reason = plan->plan_parts(make_plan);
  if (reason != Reason::none) return reason;
  return plan;
}

}  // namespace convkern
