#include "torch_binding/execute.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>

#include <utility>

#include "core/copy_geometry.h"
#include "torch_binding/executors.h"
#include "torch_binding/library.h"
#include "torch_binding/weight_cache.h"
#include "torch_binding/workspace.h"

namespace convkern::torch_binding {

convkern_dtype dtype_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return CONVKERN_F32;
    case at::kDouble:
      return CONVKERN_F64;
    case at::kBFloat16:
      return CONVKERN_BF16;
    case at::kHalf:
      return CONVKERN_F16;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "conv2d: dtype must be float32, float64, bfloat16 or float16, got ",
          t.scalar_type());
  }
}

namespace {

convkern_problem problem_of(const Call& call, at::MemoryFormat format, const at::Tensor& out) {
  convkern_problem problem{};
  copy_geometry(call.geometry, problem);
  problem.pass = static_cast<uint8_t>(call.pass);
  problem.dtype = static_cast<uint8_t>(dtype_of(out));
  problem.layout = format == at::MemoryFormat::ChannelsLast ? CONVKERN_NHWC : CONVKERN_NCHW;
  problem.bias = call.b.defined();
  problem.residual = call.residual.defined();
  problem.activation = call.epilogue.activation;
  std::copy(std::begin(call.epilogue.activation_parameters),
            std::end(call.epilogue.activation_parameters), problem.activation_parameters);
  return problem;
}

void make_plan(const convkern_problem& problem, const convkern_request& request, OwnedPlan& plan) {
  const convkern_status status = convkern_make_plan(&problem, &request, &plan);
  TORCH_CHECK(status != CONVKERN_INVALID, "convkern: ", convkern_last_error());
  check(status);
  if (plan.warning != nullptr) TORCH_WARN(plan.warning);
}

thread_local Execution last;

const void* data_or_null(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

void run(const Call& call, const convkern_problem& problem, const convkern_request& request,
         const convkern_executor* executor, at::Tensor& out) {
  OwnedPlan plan;
  make_plan(problem, request, plan);
  RECORD_FUNCTION(plan.kernel_name, c10::ArrayRef<const c10::IValue>{});
  const Workspace workspace(plan.workspace_bytes, executor->threads, out.options());
  convkern_operands operands{};
  operands.x = data_or_null(call.x);
  operands.b = data_or_null(call.b);
  operands.gy = data_or_null(call.gy);
  operands.residual = data_or_null(call.residual);
  operands.out = out.mutable_data_ptr();
  at::Tensor packed, w;
  if (call.w.defined()) packed = cached_weights(plan, call.w, executor);
  if (packed.defined()) {
    operands.packed = packed.const_data_ptr();
  } else if (call.w.defined()) {
    w = call.w.contiguous();
    operands.w = w.const_data_ptr();
  }
  check(convkern_run(&plan, &operands, workspace.data(), executor));
  last = {problem, plan.kernel_name};
}

}  // namespace

convkern_request request_for(convkern_device device, int threads) {
  convkern_request request{};
  request.device = static_cast<uint8_t>(device);
  request.deterministic = at::globalContext().deterministicAlgorithms();
  // Torch's setting for cuDNN's convolutions, which allows TF32 by default.
  request.tf32 = device == CONVKERN_CUDA && at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
  request.packs = weight_cache();
  request.threads = threads;
  return request;
}

Execution take_last_execution() { return std::exchange(last, {}); }

void execute(const Call& call, at::MemoryFormat format, at::Tensor& out) {
  const convkern_problem problem = problem_of(call, format, out);
  if (out.numel() == 0) return;
  if (out.is_cuda()) {
    const c10::DeviceGuard guard(out.device());
    const StreamExecutor executor(out.device());
    return run(call, problem, request_for(CONVKERN_CUDA, 1), executor, out);
  }
  const TorchExecutor executor;
  run(call, problem, request_for(CONVKERN_CPU, executor.threads()), executor, out);
}

}  // namespace convkern::torch_binding
