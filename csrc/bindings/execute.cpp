#include "bindings/execute.h"

#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "bindings/torch_executor.h"
#include "bindings/weight_cache.h"
#include "bindings/workspace.h"
#include "core/config.h"
#include "cpu/cpu_features.h"
#include "cpu/kernel_list.h"
#ifdef CONVKERN_WITH_CUDA
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/kernel_list.h"
#endif

namespace convkern::bindings {
namespace {

#ifdef CONVKERN_WITH_CUDA
// The current stream of the current device.
class StreamExecutor : public Executor {
 public:
  int threads() const override { return 1; }
  void run(int64_t count, int64_t, Body body) const override { body(0, count, 0); }
  void* stream() const override { return c10::cuda::getCurrentCUDAStream().stream(); }
  void wait() const override { c10::cuda::getCurrentCUDAStream().synchronize(); }
};
#endif

DType dtype_of(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
      return DType::f32;
    case at::kDouble:
      return DType::f64;
    case at::kBFloat16:
      return DType::bf16;
    case at::kHalf:
      return DType::f16;
    default:
      TORCH_CHECK_NOT_IMPLEMENTED(
          false, "conv2d: dtype must be float32, float64, bfloat16 or float16, got ",
          t.scalar_type());
  }
}

std::string reasons(const std::vector<Rejection>& rejected) {
  std::string text;
  for (const Rejection& r : rejected) {
    text += std::string(text.empty() ? "" : "; ") + r.kernel->name + " " + to_string(r.reason);
  }
  return text;
}

// A call that only the reference kernel supports is slow: say so once for each set of reasons, or
// raise if the configuration is strict. Kernels that this processor lacks are no news.
void report_fallback(const Problem& problem, const Kernel& kernel,
                     const std::vector<Rejection>& rejected) {
  std::vector<Rejection> news;  // the first of each reason
  std::set<Reason> told = {Reason::isa_not_available, Reason::isa_capped};
  for (const Rejection& r : rejected) {
    if (told.insert(r.reason).second) news.push_back(r);
  }
  const std::string why = reasons(news);
  TORCH_CHECK(!config().strict, "convkern: only the reference kernel ", kernel.name, " supports ",
              to_string(problem), ", and CONVKERN_STRICT is set (", why, ")");
  static std::mutex mutex;
  static std::set<std::string> reported;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!reported.insert(kernel.name + why).second) return;
  }
  TORCH_WARN("convkern: the slow reference kernel ", kernel.name, " runs ", to_string(problem),
             " (", why, "). This is said once for each reason.");
}

const Kernel& plan(const Problem& problem, Device device) {
  const KernelList kernels = kernels_of(device);
  TORCH_CHECK(kernels.count > 0, "convkern: this build has no kernels for ", to_string(device));
  const Constraints constraints = constraints_for(device, problem.pass);
  try {
    std::vector<Rejection> rejected;
    const Kernel& kernel = choose(kernels, problem, constraints, &rejected);
    const bool fallback = constraints.forced == nullptr && !rejected.empty() &&
                          &kernel == &reference_kernel(kernels, problem.pass);
    if (fallback && !problem.empty()) report_fallback(problem, kernel, rejected);
    if (config().verbosity >= Verbosity::dispatch) {
      std::fprintf(stderr, "convkern: %s -> %s\n", to_string(problem).c_str(), kernel.name);
    }
    if (config().verbosity == Verbosity::plan && !rejected.empty()) {
      std::fprintf(stderr, "convkern:   not %s\n", reasons(rejected).c_str());
    }
    return kernel;
  } catch (const std::invalid_argument& error) {
    TORCH_CHECK(false, "convkern: ", error.what());
  }
}

const void* data_or_null(const at::Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// ", 63% of the roof": the least time that this machine could need, where it was measured.
std::string share_of_roof(const Problem& problem, Device device, int threads, double seconds) {
  const Roof& roof = config().roof;
  const bool known = device == Device::cpu && problem.dtype == DType::f32;
  if (!known || threads != roof.threads) return "";
  const double least = std::max(problem.real_flops() / roof.flops,
                                static_cast<double>(problem.min_bytes()) / roof.bandwidth);
  return to_text(", ", std::lround(100 * least / seconds), "% of the roof");
}

void run(const Problem& problem, Device device, const Executor& executor, const Call& call,
         at::Tensor& out) {
  const Kernel& kernel = plan(problem, device);
  RECORD_FUNCTION(kernel.name, c10::ArrayRef<const c10::IValue>{});
  const int threads = executor.threads();
  const Workspace workspace(kernel.workspace(problem, threads), threads, out.options());
  Operands operands{data_or_null(call.x), nullptr, data_or_null(call.b), data_or_null(call.gy),
                    out.mutable_data_ptr()};
  at::Tensor packed, w;
  if (call.w.defined()) packed = cached_weights(kernel, problem, call.w, executor);
  if (packed.defined()) {
    operands.packed = packed.const_data_ptr();
  } else if (call.w.defined()) {
    w = call.w.contiguous();
    operands.w = w.const_data_ptr();
  }
  const bool profile = config().verbosity == Verbosity::profile;
  if (profile) executor.wait();
  const auto start = std::chrono::steady_clock::now();
  kernel.run(problem, operands, workspace.data(), executor);
  if (profile) {
    executor.wait();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "convkern:   %.3f ms, %.1f GFLOP/s%s\n", time.count() * 1e3,
                 problem.real_flops() / time.count() * 1e-9,
                 share_of_roof(problem, device, threads, time.count()).c_str());
  }
}

}  // namespace

int threads_at_work() {
  const TorchExecutor executor;
  std::mutex mutex;
  std::set<std::thread::id> seen;
  executor.run(executor.threads(), 1, [&](int64_t, int64_t, int) {
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return static_cast<int>(seen.size());
}

KernelList kernels_of(Device device) {
  if (device == Device::cpu) return cpu::kernel_list();
#ifdef CONVKERN_WITH_CUDA
  return cuda::kernel_list();
#else
  return {nullptr, 0};
#endif
}

Constraints constraints_for(Device device, Pass pass) {
  Constraints constraints;
  constraints.available = cpu::available_isa();
  constraints.cap = config().isa_cap;
  constraints.deterministic = at::globalContext().deterministicAlgorithms();
  constraints.precision = config().precision;
  // As torch decides it for cuDNN's convolutions, whose TF32 is allowed by default.
  if (device == Device::cuda && at::globalContext().allowTF32CuDNN(at::Float32Op::CONV)) {
    constraints.precision = Precision::tf32;
  }
  constraints.forced = config().forced_for(device, pass);
  return constraints;
}

void execute(const Call& call, at::MemoryFormat format, at::Tensor& out) {
  Problem problem;
  static_cast<Geometry<int64_t>&>(problem) = call.geometry;
  problem.pass = call.pass;
  problem.dtype = dtype_of(out);
  problem.layout = format == at::MemoryFormat::ChannelsLast ? Layout::nhwc : Layout::nchw;
  problem.bias = call.b.defined();
  problem.activation = call.activation;
  if (out.numel() == 0) return;
#ifdef CONVKERN_WITH_CUDA
  if (out.is_cuda()) {
    const c10::cuda::CUDAGuard guard(out.device());
    return run(problem, Device::cuda, StreamExecutor(), call, out);
  }
#endif
  run(problem, Device::cpu, TorchExecutor(), call, out);
}

}  // namespace convkern::bindings
