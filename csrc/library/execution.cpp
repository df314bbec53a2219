// The C interface's functions that choose kernels and run them.
#include <chrono>
#include <type_traits>

#include "core/config.h"
#include "core/report.h"
#include "cpu/cpu_features.h"
#include "cpu/grad_epilogue.h"
#include "library/devices.h"
#include "library/executor.h"
#include "library/problems.h"
#include "library/status.h"

namespace convkern::library {
namespace {

Constraints constraints_for(const convkern_request& request, Pass pass) {
  Constraints constraints;
  constraints.available = cpu::available_isa();
  constraints.cap = config().isa_cap;
  constraints.deterministic = request.deterministic != 0;
  constraints.precision = request.tf32 != 0 ? Precision::tf32 : config().precision.load();
  constraints.batch_invariant = config().batch_invariant;
  constraints.forced = config().forced_for(static_cast<Device>(request.device), pass);
  return constraints;
}

KernelList kernels_for(Device device) {
  const KernelList list = kernels_of(device);
  if (list.count > 0) return list;
  throw std::invalid_argument(std::string("this build has no kernels for ") + to_string(device));
}

convkern_plan plan_of(const Kernel& kernel, const convkern_problem& problem,
                      const Constraints& constraints, const convkern_request& request) {
  const Problem part = judged_problem(from_c(problem), constraints);
  convkern_plan plan{};
  plan.problem = problem;
  plan.images_at_a_time = part.N;
  plan.kernel = &kernel;
  plan.kernel_name = kernel.name;
  plan.workspace_bytes = kernel.workspace(part, request.threads);
  if (request.packs != 0 && kernel.packing.pack != nullptr) {
    plan.packed_bytes = kernel.packing.bytes(part);
  }
  plan.forced = constraints.forced != nullptr;
  plan.reference = &kernel == &reference_kernel(kernels_of(kernel.device), kernel.pass);
  return plan;
}

const Kernel& kernel_of(const convkern_plan& plan) {
  return *static_cast<const Kernel*>(plan.kernel);
}

Problem part_of(const convkern_plan& plan) {
  Problem part = from_c(plan.problem);
  part.N = plan.images_at_a_time;
  return part;
}

// The operands of the images from `image` on.
Operands operands_from(int64_t image, const Problem& p, const convkern_operands& all) {
  const int64_t x_bytes = image * p.C * p.H * p.W * size_of(p.dtype);
  const int64_t y_bytes = image * p.O * p.OH() * p.OW() * size_of(p.dtype);
  auto from = [](auto* data, int64_t bytes) -> decltype(data) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(data)>>,
                                    const char, char>;
    return data == nullptr ? nullptr : static_cast<Byte*>(data) + bytes;
  };
  Operands operands;
  operands.x = from(all.x, x_bytes);
  operands.w = all.w;
  operands.b = all.b;
  operands.gy = from(all.gy, y_bytes);
  operands.out = from(all.out, p.pass == Pass::forward ? y_bytes : x_bytes);
  operands.packed = all.packed;
  return operands;
}

void run_images(const convkern_plan& plan, const convkern_operands& operands, void* workspace,
                const Executor& executor) {
  const Problem part = part_of(plan);
  int64_t image = 0;
  do {
    kernel_of(plan).run(part, operands_from(image, part, operands), workspace, executor);
    image += part.N;
  } while (image < plan.problem.N);
}

}  // namespace
}  // namespace convkern::library

using namespace convkern;
using namespace convkern::library;

extern "C" {

convkern_status convkern_make_plan(const convkern_problem* problem, const convkern_request* request,
                                   convkern_plan* plan) {
  return guarded([&] {
    const Problem p = from_c(*problem);
    const Constraints constraints = constraints_for(*request, p.pass);
    const KernelList kernels = kernels_for(static_cast<Device>(request->device));
    std::vector<Rejection> rejected;
    const Kernel& kernel = choose(kernels, p, constraints, &rejected);
    *plan = plan_of(kernel, *problem, constraints, *request);
    if (plan->reference && !plan->forced && !rejected.empty() && !p.empty()) {
      if (config().strict) refuse_fallback(p, kernel, rejected);
      last_error() = fallback_warning(p, kernel, rejected);
      if (!last_error().empty()) plan->warning = last_error().c_str();
    }
    log_choice(p, kernel, rejected);
  });
}

convkern_status convkern_explain(const convkern_problem* problem, const convkern_request* request,
                                 void (*rejected)(void* self, const char* kernel,
                                                  const char* reason),
                                 void* self, convkern_plan* plan) {
  return guarded([&] {
    const Problem p = from_c(*problem);
    const Constraints constraints = constraints_for(*request, p.pass);
    const KernelList kernels = kernels_for(static_cast<Device>(request->device));
    const Kernel& kernel = choose(kernels, p, constraints);
    *plan = plan_of(kernel, *problem, constraints, *request);
    const Problem judged = judged_problem(p, constraints);
    for (const Kernel& other : kernels) {
      if (other.pass != p.pass || &other == &kernel) continue;
      Reason reason = plan->forced ? why_not(other, judged, constraints)
                                   : why_passed_over(other, judged, constraints);
      if (reason == Reason::dtype) continue;
      if (reason == Reason::none) {
        reason = plan->forced ? Reason::not_forced : Reason::less_preferred;
      }
      rejected(self, other.name, to_string(reason));
    }
  });
}

convkern_status convkern_run(const convkern_plan* plan, const convkern_operands* operands,
                             void* workspace, const convkern_executor* executor) {
  return guarded([&] {
    const CallersExecutor threads(*executor);
    if (config().verbosity != Verbosity::profile) {
      return run_images(*plan, *operands, workspace, threads);
    }
    threads.wait();
    const auto start = std::chrono::steady_clock::now();
    run_images(*plan, *operands, workspace, threads);
    threads.wait();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    log_time(from_c(plan->problem), kernel_of(*plan).device, executor->threads, time.count());
  });
}

convkern_status convkern_pack_weights(const convkern_plan* plan, const void* w, void* packed,
                                      const convkern_executor* executor) {
  return guarded([&] {
    kernel_of(*plan).packing.pack(part_of(*plan), w, packed, CallersExecutor(*executor));
  });
}

convkern_status convkern_run_epilogue_gradient(const convkern_epilogue_gradient* gradient,
                                               const convkern_executor* executor) {
  return guarded([&] {
    const cpu::GradEpilogue epilogue{gradient->images, gradient->channels,
                                     gradient->pixels, static_cast<Layout>(gradient->layout),
                                     gradient->gy,     gradient->y,
                                     gradient->masked, gradient->gb};
    epilogue.run(CallersExecutor(*executor));
  });
}

}  // extern "C"
