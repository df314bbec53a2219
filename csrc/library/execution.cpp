// The C interface's functions that choose kernels and run them.
#include <chrono>

#include "core/choose.h"
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

// The plan of a call, which convkern_plan::prepared points to.
struct Prepared {
  const Kernel* kernel;
  Problem part;  // that the kernel computes at a time: some images of the whole problem
  std::unique_ptr<const Plan> plan;
};

const Prepared& prepared(const convkern_plan& plan) {
  return *static_cast<const Prepared*>(plan.prepared);
}

bool is_reference(const Kernel& kernel) {
  return &kernel == &reference_kernel(kernels_of(kernel.device), kernel.pass);
}

convkern_plan plan_of(Chooser& chooser, const Kernel& kernel, const convkern_problem& problem,
                      const Constraints& constraints, const convkern_request& request) {
  auto made = std::make_unique<Prepared>();
  made->kernel = &kernel;
  made->part = chooser.problem();
  made->plan = chooser.take_plan(kernel);
  convkern_plan plan{};
  plan.problem = problem;
  plan.kernel = &kernel;
  plan.kernel_name = kernel.name;
  plan.workspace_bytes = made->plan->workspace(request.threads);
  if (request.packs != 0) plan.packed_bytes = made->plan->packed_bytes();
  plan.forced = constraints.forced != nullptr;
  plan.reference = is_reference(kernel);
  plan.prepared = made.release();
  return plan;
}

void run_images(const convkern_plan& plan, const convkern_operands& operands, void* workspace,
                const Executor& executor) {
  const Problem& part = prepared(plan).part;
  const Operands all{operands.x,        operands.w,   operands.b,     operands.gy,
                     operands.residual, operands.out, operands.packed};
  int64_t image = 0;
  do {
    prepared(plan).plan->run(images_from(image, part, all), workspace, executor);
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
  *plan = {};
  return guarded([&] {
    const Problem p = from_c(*problem);
    const Constraints constraints = constraints_for(*request, p.pass);
    Chooser chooser(kernels_for(static_cast<Device>(request->device)), p, constraints);
    std::vector<Rejection> rejected;
    const Kernel& kernel = chooser.choose(&rejected);
    const bool forced = constraints.forced != nullptr;
    const bool falls_back = is_reference(kernel) && !forced && !rejected.empty() && !p.empty();
    if (falls_back && config().strict) refuse_fallback(p, kernel, rejected);
    *plan = plan_of(chooser, kernel, *problem, constraints, *request);
    const std::string warning = falls_back ? fallback_warning(p, kernel, rejected) : "";
    log_choice(p, kernel, rejected);
    if (!warning.empty()) {
      last_error() = warning;
      plan->warning = last_error().c_str();
    }
  });
}

convkern_status convkern_explain(const convkern_problem* problem, const convkern_request* request,
                                 void (*rejected)(void* self, const char* kernel,
                                                  const char* reason),
                                 void* self, convkern_plan* plan) {
  *plan = {};
  return guarded([&] {
    const Problem p = from_c(*problem);
    const Constraints constraints = constraints_for(*request, p.pass);
    const KernelList kernels = kernels_for(static_cast<Device>(request->device));
    const bool forced = constraints.forced != nullptr;
    Chooser chooser(kernels, p, constraints);
    const Kernel& kernel = chooser.choose();
    for (const Kernel& other : kernels) {
      if (other.pass != p.pass || &other == &kernel) continue;
      Reason reason = forced ? chooser.why_not(other) : chooser.why_passed_over(other);
      if (reason == Reason::dtype) continue;
      if (reason == Reason::none) reason = forced ? Reason::not_forced : Reason::less_preferred;
      rejected(self, other.name, to_string(reason));
    }
    *plan = plan_of(chooser, kernel, *problem, constraints, *request);
  });
}

void convkern_free_plan(convkern_plan* plan) {
  delete static_cast<const Prepared*>(plan->prepared);
  plan->prepared = nullptr;
}

convkern_status convkern_run(const convkern_plan* plan, const convkern_operands* operands,
                             void* workspace, const convkern_executor* executor) {
  return guarded([&] {
    if (plan->prepared == nullptr) throw std::invalid_argument("the plan was freed or not made");
    const CallersExecutor threads(*executor);
    if (config().verbosity != Verbosity::profile) {
      return run_images(*plan, *operands, workspace, threads);
    }
    threads.wait();
    const auto start = std::chrono::steady_clock::now();
    run_images(*plan, *operands, workspace, threads);
    threads.wait();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    log_time(from_c(plan->problem), prepared(*plan).kernel->device, executor->threads,
             time.count());
  });
}

convkern_status convkern_pack_weights(const convkern_plan* plan, const void* w, void* packed,
                                      const convkern_executor* executor) {
  return guarded([&] { prepared(*plan).plan->pack(w, packed, CallersExecutor(*executor)); });
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
