#include "torch_binding/program.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

#include "torch_binding/checks.h"
#include "torch_binding/execute.h"
#include "torch_binding/executors.h"
#include "torch_binding/fresh_memory.h"
#include "torch_binding/team.h"
#include "torch_binding/workspace.h"

namespace convkern::torch_binding {

struct Program::Step {
  std::vector<int64_t> dead;
  // One of the three is set.
  std::unique_ptr<ConvolutionStep> convolution = nullptr;
  std::unique_ptr<PassStep> pass = nullptr;
  std::unique_ptr<OpStep> op = nullptr;
  // Of a convolution.
  std::unique_ptr<OwnedPlan> plan = nullptr;
  at::Tensor packed = {};

  // Where the step writes its result, or null if torch allocates it.
  const Place* place() const {
    if (convolution != nullptr) return &convolution->y;
    if (pass != nullptr) return &pass->y;
    return op->out.has_value() ? &*op->out : nullptr;
  }
};

// What one run needs: an arena, and the tensors in the slots.
struct Program::Frame {
  at::Tensor arena;
  std::vector<at::Tensor> slots;
};

Program::Program(int64_t slots, int64_t arena_bytes, int threads)
    : slots_(slots), arena_bytes_(arena_bytes), threads_(threads), lasts_(slots) {}
Program::~Program() = default;

void Program::set_constant(int64_t slot, at::Tensor value) {
  constants_.emplace_back(slot, std::move(value));
  lasts_[slot] = true;
}

void Program::add(ConvolutionStep step, std::vector<int64_t> dead) {
  auto plan = std::make_unique<OwnedPlan>();
  convkern_request request = request_for(CONVKERN_CPU, threads_);
  request.packs = 1;
  check(convkern_make_plan(&step.problem, &request, plan.get()));
  at::Tensor packed;
  if (plan->packed_bytes > 0) {
    packed = at::empty({plan->packed_bytes}, step.weight.options().dtype(at::kByte));
    prefer_huge_pages(packed);
    const TorchExecutor executor;
    check(convkern_pack_weights(plan.get(), step.weight.const_data_ptr(), packed.mutable_data_ptr(),
                                executor));
    step.weight = at::Tensor();
  }
  lasts_[step.y.slot] = step.y.offset >= 0;
  steps_.push_back({.dead = std::move(dead),
                    .convolution = std::make_unique<ConvolutionStep>(std::move(step)),
                    .plan = std::move(plan),
                    .packed = std::move(packed)});
}

void Program::add(PassStep step, std::vector<int64_t> dead) {
  lasts_[step.y.slot] = step.y.offset >= 0;
  steps_.push_back({.dead = std::move(dead), .pass = std::make_unique<PassStep>(std::move(step))});
}

void Program::add(OpStep step, std::vector<int64_t> dead) {
  if (step.out.has_value()) lasts_[step.out->slot] = step.out->offset >= 0;
  steps_.push_back({.dead = std::move(dead), .op = std::make_unique<OpStep>(std::move(step))});
}

std::unique_ptr<Program::Frame> Program::take_frame() const {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!frames_.empty()) {
      auto frame = std::move(frames_.back());
      frames_.pop_back();
      return frame;
    }
  }
  auto frame = std::make_unique<Frame>();
  frame->slots.resize(static_cast<size_t>(slots_));
  frame->arena = at::empty({arena_bytes_}, at::kByte);
  prefer_huge_pages(frame->arena);
  for (const auto& [slot, value] : constants_) frame->slots[slot] = value;
  for (const Step& step : steps_) {
    const Place* y = step.place();
    if (y == nullptr || y->offset < 0) continue;
    char* at = static_cast<char*>(frame->arena.mutable_data_ptr()) + y->offset;
    frame->slots[y->slot] = at::from_blob(at, y->sizes, y->strides, at::TensorOptions(y->dtype));
  }
  return frame;
}

void Program::give_back(std::unique_ptr<Frame> frame) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  frames_.push_back(std::move(frame));
}

namespace {

at::Tensor allocated(const Place& place, int64_t parts) {
  std::vector<int64_t> sizes = place.sizes;
  if (parts > 1) sizes[0] *= parts;
  at::Tensor t = at::empty_strided(sizes, place.strides, at::TensorOptions(place.dtype));
  prefer_huge_pages(t);
  return t;
}

std::vector<at::Tensor> part_of(const std::vector<at::Tensor>& tensors, int64_t part,
                                int64_t parts) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& t : tensors) {
    const int64_t size = t.size(0) / parts;
    result.push_back(t.narrow(0, part * size, size));
  }
  return result;
}

}  // namespace

std::vector<at::Tensor> Program::run(const std::vector<at::Tensor>& inputs, int64_t parts) const {
  for (const at::Tensor& input : inputs) check_allocated(input, "input");
  // Inference mode is a state of the calling thread. Its tensors cannot be written by others.
  const c10::InferenceMode normal(false);
  std::vector<at::Tensor> outputs;
  for (const Place& place : outputs_) outputs.push_back(allocated(place, parts));
  // A frame whose run has raised an error is not used again.
  const auto run_parts = [&](int64_t begin, int64_t end) {
    const at::AutoDispatchBelowADInplaceOrView no_autograd;
    auto frame = take_frame();
    for (int64_t part = begin; part < end; ++part) {
      if (parts == 1) {
        run_part(*frame, inputs, outputs);
      } else {
        run_part(*frame, part_of(inputs, part, parts), part_of(outputs, part, parts));
      }
    }
    give_back(std::move(frame));
  };
  if (parts == 1) {
    run_parts(0, 1);
  } else {
    at::parallel_for(0, parts, 1, run_parts);
  }
  return outputs;
}

namespace {

// Runs tasks on the calling thread. Workspaces are sized for the threads of the program, so that
// torch's present number of threads must not decide.
constexpr convkern_executor kSerial{nullptr, 1,
                                    [](const void*, int64_t count, int64_t, convkern_body body,
                                       void* context) { body(context, 0, count, 0); },
                                    nullptr, nullptr};

}  // namespace

void Program::run_part(Frame& frame, const std::vector<at::Tensor>& inputs,
                       const std::vector<at::Tensor>& outputs) const {
  const bool alone = threads_ == 1 || at::in_parallel_region();
  std::vector<at::Tensor>& slots = frame.slots;
  for (size_t i = 0; i < inputs_.size(); ++i) slots[inputs_[i]] = inputs[i];
  // Convolutions whose results leave the program write to the outputs.
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (outputs_[i].offset == 0) slots[outputs_[i].slot] = outputs[i];
  }
  for (size_t first = 0, last; first < steps_.size(); first = last) {
    last = first + 1;
    while (last < steps_.size() && runs_in_team(steps_[first]) && runs_in_team(steps_[last]))
      ++last;
    if (alone || !runs_in_team(steps_[first])) {
      run_steps(first, last, frame, &kSerial);
    } else {
      Team team(threads_);
      team.assemble(
          [&](const convkern_executor* together) { run_steps(first, last, frame, together); });
    }
  }
  for (size_t i = 0; i < outputs_.size(); ++i) {
    at::Tensor output = outputs[i];
    if (outputs_[i].offset != 0) output.copy_(slots[outputs_[i].slot]);
  }
  for (const Place& place : outputs_) {
    if (!lasts_[place.slot]) slots[place.slot].reset();
  }
  for (const int64_t slot : inputs_) slots[slot].reset();
}

bool Program::runs_in_team(const Step& step) {
  return step.op == nullptr || step.op->is_small || step.op->split >= 0;
}

void Program::run_steps(size_t first, size_t last, Frame& frame,
                        const convkern_executor* executor) const {
  for (size_t i = first; i < last; ++i) {
    const Step& step = steps_[i];
    if (step.convolution != nullptr) {
      run_convolution(step, frame, executor);
    } else if (step.pass != nullptr) {
      run_pass(*step.pass, frame, executor);
    } else {
      run_op(*step.op, frame, executor);
    }
    for (const int64_t slot : step.dead) frame.slots[slot].reset();
  }
}

void Program::run_pass(const PassStep& step, Frame& frame, const convkern_executor* executor) {
  const at::Tensor& y = frame.slots[step.y.slot];
  if (y.numel() == 0) return;
  std::vector<at::Tensor> inputs;
  for (const int64_t slot : step.inputs) {
    inputs.push_back(frame.slots[slot].contiguous(at::MemoryFormat::ChannelsLast));
  }
  step.pass->run(inputs, y, executor);
}

void Program::run_convolution(const Step& step, Frame& frame,
                              const convkern_executor* executor) const {
  const ConvolutionStep& c = *step.convolution;
  if (frame.slots[c.y.slot].numel() == 0) return;
  const auto dense = [&](const at::Tensor& t) {
    return t.contiguous(c.of_pixels ? at::MemoryFormat::ChannelsLast
                                    : at::MemoryFormat::Contiguous);
  };
  const at::Tensor x = dense(frame.slots[c.x]);
  const at::Tensor residual = c.residual < 0 ? at::Tensor() : dense(frame.slots[c.residual]);
  convkern_operands operands{};
  operands.x = x.const_data_ptr();
  if (step.packed.defined()) {
    operands.packed = step.packed.const_data_ptr();
  } else {
    operands.w = c.weight.const_data_ptr();
  }
  if (c.bias.defined()) operands.b = c.bias.const_data_ptr();
  if (residual.defined()) operands.residual = residual.const_data_ptr();
  operands.out = frame.slots[c.y.slot].mutable_data_ptr();
  const Workspace workspace(step.plan->workspace_bytes, threads_, x.options());
  check(convkern_run(step.plan.get(), &operands, workspace.data(), executor));
}

namespace {

// Returns a list of part(slot) for each slot, and None for slot -1.
template <class Part>
c10::IValue list_of(const std::vector<int64_t>& slots, const Part& part) {
  if (std::find(slots.begin(), slots.end(), -1) == slots.end()) {
    c10::List<at::Tensor> tensors;
    for (const int64_t slot : slots) tensors.push_back(part(slot));
    return tensors;
  }
  c10::List<std::optional<at::Tensor>> tensors;
  for (const int64_t slot : slots) {
    tensors.push_back(slot < 0 ? std::nullopt : std::optional<at::Tensor>(part(slot)));
  }
  return tensors;
}

// Calls an op with the tensors of the slots, or with their parts [begin, end) along the dimension
// `split` if that is not -1. Tensors of size 1 there are broadcast.
torch::jit::Stack call(const OpStep& step, const std::vector<at::Tensor>& slots, int64_t begin = 0,
                       int64_t end = 0) {
  const auto part = [&](int64_t slot) {
    const at::Tensor& t = slots[slot];
    const int64_t from_end = step.out.has_value() ? step.split - step.out->sizes.size() : 0;
    const bool whole = end == 0 || t.dim() + from_end < 0 || t.size(from_end) == 1;
    return whole ? t : t.narrow(from_end, begin, end - begin);
  };
  torch::jit::Stack stack;
  for (const OpArgument& argument : step.arguments) {
    if (argument.kind == OpArgument::kConstant) {
      stack.push_back(argument.constant);
    } else if (argument.kind == OpArgument::kTensor) {
      stack.emplace_back(part(argument.slots[0]));
    } else {
      stack.push_back(list_of(argument.slots, part));
    }
  }
  if (step.out.has_value()) stack.emplace_back(part(step.out->slot));
  step.op.callBoxed(&stack);
  return stack;
}

}  // namespace

void Program::run_op(const OpStep& step, Frame& frame, const convkern_executor* executor) {
  if (step.split >= 0 && executor->threads > 1) {
    const int64_t size = step.out->sizes[step.split];
    struct Context {
      const OpStep& step;
      const std::vector<at::Tensor>& slots;
    } context{step, frame.slots};
    executor->run(
        executor->self, size, 1,
        [](void* context, int64_t begin, int64_t end, int) {
          const at::AutoDispatchBelowADInplaceOrView no_autograd;
          const auto& [step, slots] = *static_cast<Context*>(context);
          call(step, slots, begin, end);
        },
        &context);
    return;
  }
  torch::jit::Stack stack = call(step, frame.slots);
  if (step.out.has_value()) return;
  const auto put = [&](int64_t slot, const at::Tensor& value) {
    if (slot >= 0) frame.slots[slot] = value;
  };
  if (!step.returns_list) {
    for (size_t i = 0; i < step.results.size(); ++i) put(step.results[i], stack[i].toTensor());
    return;
  }
  const std::vector<at::Tensor> list = stack[0].toTensorVector();
  for (size_t i = 0; i < step.results.size(); ++i) put(step.results[i], list[i]);
}

std::vector<std::string> Program::kernels() const {
  std::vector<std::string> names;
  for (const Step& step : steps_) {
    if (step.convolution != nullptr) names.emplace_back(step.plan->kernel_name);
  }
  return names;
}

std::vector<int64_t> Program::memory() const {
  int64_t packed = 0, workspace = 0;
  for (const Step& step : steps_) {
    if (step.convolution == nullptr) continue;
    const at::Tensor& weights = step.packed.defined() ? step.packed : step.convolution->weight;
    packed += static_cast<int64_t>(weights.nbytes());
    workspace = std::max(workspace, step.plan->workspace_bytes);
  }
  return {packed, arena_bytes_, workspace};
}

}  // namespace convkern::torch_binding
