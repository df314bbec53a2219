// A model for inference as a program: a list of steps that read and write slots.
//
// A step is a convolution, whose plan and packed weights are made once, a pass over images
// (passes.h), or an op of torch. A slot holds a tensor: an input, a constant, or the result of a
// step. The results of convolutions and passes have places in an arena, which the maker of the
// program has planned. Results of torch's ops, and results that leave the program, are allocated in
// each run.
//
// A program computes one part of a batch. A batch of several parts is computed with a thread for
// each part: there is then nothing to wait for between the steps, and the arena of a part is small
// enough to stay in the caches. A single part is computed by all threads together.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "convkern.h"
#include "torch_binding/library.h"
#include "torch_binding/passes.h"

namespace convkern::torch_binding {

// The place of a result: `offset` bytes into the arena, or -1 for memory of its own.
struct Place {
  int64_t slot;
  std::vector<int64_t> sizes, strides;
  at::ScalarType dtype;
  int64_t offset;
};

struct ConvolutionStep {
  convkern_problem problem;
  int64_t x;         // slot
  int64_t residual;  // slot, or -1
  Place y;
  at::Tensor weight, bias;  // dense; the bias may be undefined
  bool of_pixels;           // whether x and the residual are needed in channels_last
};

struct PassStep {
  std::shared_ptr<const Pass> pass;
  std::vector<int64_t> inputs;  // slots
  Place y;
};

// An argument of an op: a constant, the tensor of a slot, or a list of tensors of slots, of which
// -1 stands for None.
struct OpArgument {
  c10::IValue constant;
  std::vector<int64_t> slots;
  enum Kind { kConstant, kTensor, kTensors } kind;
};
struct OpStep {
  c10::OperatorHandle op;
  std::vector<OpArgument> arguments;
  std::vector<int64_t> results;  // slots of the result, or of the tensors of a list; -1 if unused
  bool returns_list;
  bool is_small;  // so small that torch would compute it on one thread
  // Where an op that writes to its last argument, `out`, does so. The threads share the result
  // along the dimension `split`, unless that is -1.
  std::optional<Place> out;
  int64_t split = -1;
};

class Program {
 public:
  // Kernels run on `threads` threads.
  Program(int64_t slots, int64_t arena_bytes, int threads);
  ~Program();

  void set_constant(int64_t slot, at::Tensor value);
  void set_inputs(std::vector<int64_t> slots) { inputs_ = std::move(slots); }
  // Results that leave the program, with the sizes of one part.
  void set_outputs(std::vector<Place> places) { outputs_ = std::move(places); }
  // Appends a step. Slots in `dead` are not read after it.
  void add(ConvolutionStep step, std::vector<int64_t> dead);
  void add(PassStep step, std::vector<int64_t> dead);
  void add(OpStep step, std::vector<int64_t> dead);

  // Runs the program for each part of the inputs along their first dimension. Thread-safe.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs, int64_t parts) const;

  // The name of the kernel of each convolution, in the order of the steps.
  std::vector<std::string> kernels() const;
  // Bytes of packed weights, of one arena, and of the largest workspace of a kernel.
  std::vector<int64_t> memory() const;

 private:
  struct Step;
  struct Frame;
  using Frames = std::vector<std::unique_ptr<Frame>>;

  std::unique_ptr<Frame> take_frame() const;
  void give_back(std::unique_ptr<Frame> frame) const;
  void run_part(Frame& frame, const std::vector<at::Tensor>& inputs,
                const std::vector<at::Tensor>& outputs) const;
  // Whether a step may run while the threads wait for the kernels of the next steps (team.h).
  static bool runs_in_team(const Step& step);
  void run_steps(size_t first, size_t last, Frame& frame, const convkern_executor* executor) const;
  void run_convolution(const Step& step, Frame& frame, const convkern_executor* executor) const;
  static void run_pass(const PassStep& step, Frame& frame, const convkern_executor* executor);
  static void run_op(const OpStep& step, Frame& frame, const convkern_executor* executor);

  const int64_t slots_, arena_bytes_;
  const int threads_;
  std::vector<std::pair<int64_t, at::Tensor>> constants_;
  std::vector<int64_t> inputs_;
  std::vector<Place> outputs_;
  std::vector<Step> steps_;
  // Whether the tensor of a slot stays in it from run to run: constants and places in the arena.
  std::vector<bool> lasts_;
  mutable std::mutex mutex_;  // of the frames that no run is using
  mutable Frames frames_;
};

}  // namespace convkern::torch_binding
