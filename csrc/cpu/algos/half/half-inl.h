// Computes bfloat16 and float16 convolutions by float32 algorithms. The batch is cut into chunks of
// images. The operands of a chunk are converted, a float32 algorithm computes the chunk, and its
// results are rounded once. Chunks are so small that converted images stay in the cache until the
// algorithm reads them. They also keep the workspace from growing with the batch.
//
// A class Form says how operands are converted: Widened to float32, Pairs to pairs of bfloat16, and
// Stored only the weights.
#pragma once

#include "cpu/algos/half/conversions-inl.h"
#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

constexpr int64_t kChunkBytes = 4 << 20;  // target for the bytes of a chunk's converted images
// The images of a chunk may also have this many times the weights' bytes, if that is more: kernels
// repack all weights for every chunk.
constexpr int64_t kChunkWeights = 2;

// Returns whether results pass through finish(). Float32 algorithms apply bounds themselves.
inline bool is_finished(const Problem& p) {
  return p.residual || (p.activation.kind != ActivationKind::none && !p.activation.bounds());
}

// The float32 problems of a pass, one for each near-equal part of the batch. `largest` is the
// problem of the largest part. Form may count pairs of images instead of images.
template <class Form>
struct Chunks {
  Form form;
  Problem largest;
  int64_t batch, count;

  explicit Chunks(const Problem& p) : form{p}, largest(form.problem()), batch(largest.N) {
    if (finishes()) largest = without_epilogue(largest);
    const int64_t float_size = sizeof(float);
    const int64_t image = std::max<int64_t>(1, form.x_floats() + form.y_floats());
    const int64_t bytes = std::max(kChunkBytes, kChunkWeights * form.w_floats() * float_size);
    count = ceil_div(batch, std::max<int64_t>(1, bytes / float_size / image));
    largest.N = ceil_div(batch, count);
  }
  bool finishes() const { return is_finished(form.p); }
  bool adds_up() const { return largest.pass == Pass::grad_weight && count > 1; }
};

// The offsets in the workspace, in bytes. `x` holds x or gx, and `y` holds y or gy. `w` holds w or
// the gw of a chunk, `sum` the sum of gw over the chunks, and `b` the bias. `kernel` is the
// workspace of the float32 kernel.
struct Offsets {
  int64_t x, y, w, sum, b, kernel;

  template <class Form>
  explicit Offsets(const Chunks<Form>& chunks) {
    const Form& form = chunks.form;
    const Problem& p = chunks.largest;
    x = 0;
    y = x + whole_lines(p.N * form.x_floats());
    w = y + whole_lines(p.N * form.y_floats());
    sum = w + (chunks.adds_up() ? whole_lines(form.w_floats()) : 0);
    b = sum + whole_lines(form.w_floats());
    kernel = b + whole_lines(p.bias ? p.O : 0);
  }
};

// The addresses that belong to the offsets.
struct Buffers {
  float *x, *y, *w, *sum, *b;
  void* workspace;

  Buffers(const Offsets& offsets, void* memory) {
    auto at = [&](int64_t offset) {
      return reinterpret_cast<float*>(static_cast<char*>(memory) + offset);
    };
    x = at(offsets.x);
    y = at(offsets.y);
    w = at(offsets.w);
    sum = at(offsets.sum);
    b = at(offsets.b);
    workspace = at(offsets.kernel);
  }
};

// The plan of a pass in half precision. It has the plans of the chunks' float32 problems.
template <class Form>
class Through final : public Plan {
 public:
  explicit Through(const Problem& problem) : p_(problem), chunks_(p_), offsets_(chunks_) {}

  // Makes the plans of the chunks. Some chunks are smaller by one image if their number does not
  // divide the batch. Returns Reason::none, or why the algorithm does not compute the chunks.
  Reason plan_chunks(MakePlan make_plan) {
    Planned largest = make_plan(chunks_.largest);
    if (largest.reason != Reason::none) return largest.reason;
    largest_ = std::move(largest.plan);
    Problem part = chunks_.largest;
    part.N = chunks_.batch / chunks_.count;
    if (part.N == chunks_.largest.N) return Reason::none;
    Planned smaller = make_plan(part);
    smaller_ = std::move(smaller.plan);
    return smaller.reason;
  }

  int64_t workspace(int threads) const override {
    const int64_t smaller = smaller_ == nullptr ? 0 : smaller_->workspace(threads);
    return offsets_.kernel + std::max(largest_->workspace(threads), smaller);
  }
  int64_t packed_bytes() const override { return largest_->packed_bytes(); }
  void pack(const void* w, void* packed, const Executor& executor) const override {
    std::vector<float> converted(chunks_.form.w_floats());
    chunks_.form.weights(static_cast<const uint16_t*>(w), converted.data(), executor);
    largest_->pack(converted.data(), packed, executor);
  }
  Problem compared(const Problem&) const override { return chunks_.largest; }
  void run(const Operands& ops, void* memory, const Executor& executor) const override;

 private:
  const Problem p_;  // declared before the chunks, which refer to it
  const Chunks<Form> chunks_;
  const Offsets offsets_;
  std::unique_ptr<const Plan> largest_, smaller_;  // `smaller_` is null if all chunks are equal
};

template <class Form>
void Through<Form>::run(const Operands& ops, void* memory, const Executor& executor) const {
  const Problem& p = p_;
  const Form& form = chunks_.form;
  const Buffers f32(offsets_, memory);
  const auto* x = static_cast<const uint16_t*>(ops.x);
  const auto* gy = static_cast<const uint16_t*>(ops.gy);
  auto* out = static_cast<uint16_t*>(ops.out);
  const int64_t image_size =  // elements of an image of y or gx
      p.pass == Pass::forward ? p.O * p.OH() * p.OW() : p.C * p.H * p.W;
  Operands operands;
  operands.w = f32.w;
  operands.packed = ops.packed;
  if (p.pass != Pass::grad_weight && ops.packed == nullptr) {
    form.weights(static_cast<const uint16_t*>(ops.w), f32.w, executor);
  }
  if (p.bias) {
    widen(p.dtype, static_cast<const uint16_t*>(ops.b), p.O, f32.b, executor);
    operands.b = f32.b;
  }
  for (int64_t chunk = 0; chunk < chunks_.count; ++chunk) {
    const Range images = near_equal_part(chunks_.batch, chunks_.count, chunk);
    const Plan& plan = images.size() == chunks_.largest.N ? *largest_ : *smaller_;
    if (p.pass != Pass::grad_input) operands.x = form.x(x, images, f32.x, executor);
    if (p.pass != Pass::forward) operands.gy = form.gy(gy, images, f32.y, executor);
    if (p.pass == Pass::grad_weight) {
      operands.out = chunk == 0 ? f32.sum : f32.w;
      plan.run(operands, f32.workspace, executor);
      if (chunk > 0) add(f32.w, form.w_floats(), f32.sum, executor);
      continue;
    }
    uint16_t* result = out + images.begin * image_size;
    float* buffer = p.pass == Pass::forward ? f32.y : f32.x;
    operands.out = Form::kRounds ? static_cast<void*>(result) : buffer;
    plan.run(operands, f32.workspace, executor);
    const int64_t n = images.size() * image_size;
    if (chunks_.finishes()) {
      const auto* residual = static_cast<const uint16_t*>(ops.residual);
      if (residual != nullptr) residual += images.begin * image_size;
      finish(p, Form::kRounds ? nullptr : buffer, residual, n, result, executor);
    } else if (!Form::kRounds) {
      narrow(p.dtype, buffer, n, result, executor);
    }
  }
  if (p.pass == Pass::grad_weight) narrow(p.dtype, f32.sum, form.w_floats(), out, executor);
}

// Makes the plan of one pass of a float32 algorithm in half precision, or says why there is none.
template <class Form, const Algorithm& kAlgorithm, Pass kPass>
Planned plan_through(const Problem& p) {
  Reason reason = Form{p}.supports();
  if (reason != Reason::none) return reason;
  if (p.empty()) return Reason::empty;
  std::unique_ptr<Through<Form>> plan(new Through<Form>(p));
  reason = plan->plan_chunks(kAlgorithm.plan(kPass));
  if (reason != Reason::none) return reason;
  return plan;
}

// A float32 algorithm in half precision. It declines by the rule of the form if there is one, and
// otherwise by the rule of the float32 algorithm.
template <class Form, const Algorithm& kAlgorithm>
constexpr Algorithm through = {
    kAlgorithm.name,
    plan_through<Form, kAlgorithm, Pass::forward>,
    plan_through<Form, kAlgorithm, Pass::grad_input>,
    plan_through<Form, kAlgorithm, Pass::grad_weight>,
    Form::kDeclines != nullptr ? Form::kDeclines : kAlgorithm.declines,
    kAlgorithm.precision,
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
