// A plan is what a kernel has worked out for one problem: its blocking, the size of its workspace,
// and how to run it.
#pragma once

#include <memory>
#include <utility>

#include "core/executor.h"
#include "core/problem.h"
#include "core/reason.h"

namespace convkern {

// Raw operands of one pass: x (N, C, H, W), gy and y (N, O, OH, OW) dense in the problem's layout,
// w and gw (O, C / groups, R, S) contiguous, b (O,). The pass says which are read:
//   forward      x, w, b (null without bias), residual (null without, else as y) -> y
//   grad_input   gy, w -> gx
//   grad_weight  gy, x -> gw
struct Operands {
  const void* x = nullptr;
  const void* w = nullptr;
  const void* b = nullptr;
  const void* gy = nullptr;
  const void* residual = nullptr;
  void* out = nullptr;           // y, gx or gw; every element is written
  const void* packed = nullptr;  // w as Plan::pack left it, in place of w
};

// Returns the operands of the images from `image` on. A gradient of weights has no images.
Operands images_from(int64_t image, const Problem& problem, const Operands& operands);

// A kernel's plan for one problem. It is made once a call, before the operands are known. It is
// constant: run() may be called any number of times.
class Plan {
 public:
  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  virtual ~Plan();

  // Bytes of scratch memory, 64-byte aligned, that run() needs with so many threads.
  virtual int64_t workspace(int threads) const;
  virtual void run(const Operands& operands, void* workspace, const Executor& executor) const = 0;

  // Forward kernels may rearrange the weights before they use them, for callers that keep the
  // result from call to call. It depends on the weights and groups only. packed_bytes() is its
  // size, 64-byte aligned, and 0 where the kernel reads the weights as they are.
  virtual int64_t packed_bytes() const;
  virtual void pack(const void* w, void* packed, const Executor& executor) const;

  // The problem by which kernels of this dtype are compared: `problem` itself, unless the kernel
  // computes it as others, as half precision is computed as float32 some images at a time.
  virtual Problem compared(const Problem& problem) const;
};

// A plan, or the reason why a kernel does not compute the problem.
struct Planned {
  Reason reason = Reason::none;
  std::unique_ptr<const Plan> plan;

  Planned(Reason why) : reason(why) {}
  template <class PassPlan>
  Planned(std::unique_ptr<PassPlan> made) : plan(std::move(made)) {}
};

// Returns why no kernel but the reference plans the problem, or Reason::none: it has no products,
// its sizes overflow those of buffers, or its input gradient has too many residues modulo the
// stride, for each of which a plan lists what to do.
Reason beyond_plans(const Problem& problem);

}  // namespace convkern
