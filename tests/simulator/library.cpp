// The CUDA kernels in the simulator, for the tests to call.
#include <exception>
#include <stdexcept>
#include <string>

#include "core/plan.h"
#include "core/problem.h"
#include "cuda/implicit_gemm/heuristics.h"
#include "cuda/kernel_list.h"
#include "cuda_runtime.h"

namespace {

using namespace convkern;

thread_local std::string text;  // that is returned

// There is no stream: a launch returns when it is done.
class SimulatedExecutor : public Executor {
 public:
  int threads() const override { return 1; }
  void run(int64_t count, int64_t, Body body) const override { body(0, count, 0); }
};

const Kernel& kernel_named(const char* name) {
  for (const Kernel& kernel : cuda::kernel_list()) {
    if (std::string(kernel.name) == name) return kernel;
  }
  throw std::invalid_argument(std::string("no kernel is called ") + name);
}

}  // namespace

extern "C" {

// The name of a kernel of the list; null beyond the last.
const char* convkern_kernel_name(int index) {
  const KernelList list = cuda::kernel_list();
  return index < static_cast<int>(list.count) ? list.first[index].name : nullptr;
}

// Why the kernel does not run a problem; empty if it does.
const char* convkern_rejection(const char* name, const char* problem) {
  const Reason reason = kernel_named(name).supports(parse_problem(problem));
  return reason == Reason::none ? "" : to_string(reason);
}

int64_t convkern_workspace(const char* name, const char* problem) {
  return kernel_named(name).workspace(parse_problem(problem), 1);
}

// The columns of the tile that implicit_gemm chooses for forward and grad_input.
int convkern_tile_columns(int64_t pixels, int64_t columns, int64_t groups, int multiprocessors) {
  return cuda::tile_columns(cuda::correlation_tile(pixels, columns, groups, multiprocessors));
}

int64_t convkern_weight_splits(int64_t pixels, int64_t blocks, int64_t bytes) {
  return cuda::weight_splits(pixels, blocks, bytes);
}

bool convkern_fits_int32(const char* problem) { return cuda::fits_int32(parse_problem(problem)); }

// What the simulator itself does wrong that no kernel here shows: two warps exchange numbers in
// every way. Empty if nothing.
const char* convkern_broken_primitive() {
  text.clear();
  auto expect = [](bool holds, const char* what) {
    if (!holds) text = what;
  };
  simulator::launch(dim3(2), dim3(64), 0, [&] {
    const int lane = simulator::lane(), mine = 100 + static_cast<int>(threadIdx.x);
    const int first = mine - lane;
    expect(__shfl_sync(0xffffffff, mine, 5) == first + 5, "shfl");
    expect(__shfl_xor_sync(0xffffffff, mine, 3) == first + (lane ^ 3), "shfl_xor");
    expect(__shfl_down_sync(0xffffffff, mine, 2) == (lane > 29 ? mine : mine + 2), "shfl_down");
    __syncthreads();
    expect(__ballot_sync(0xffffffff, lane % 2) == 0xaaaaaaaa, "ballot");
    if (lane < 8) {
      __syncwarp(0xff);
      expect(__shfl_xor_sync(0xff, mine, 7) == first + (lane ^ 7), "shfl of some lanes");
    }
  });
  auto fails = [](auto body) {
    try {
      simulator::launch(dim3(1), dim3(32), 0, body);
    } catch (const std::runtime_error&) {
      return true;
    }
    return false;
  };
  expect(fails([] { __shfl_sync(0xff, 1, 9); }), "a lane out of its mask was let through");
  expect(fails([] { __shfl_sync(0xffff0000 >> simulator::lane(), 1, 9); }), "masks that differ");
  expect(fails([] {
           if (simulator::lane() > 0) __syncwarp();
         }),
         "a lane that never arrives");
  return text.c_str();
}

// Runs a kernel in a schedule of threads. Returns what went wrong; empty if nothing did.
const char* convkern_run(const char* name, const char* problem, unsigned schedule, const void* x,
                         const void* w, const void* b, const void* gy, void* out, void* workspace) {
  try {
    simulator::set_schedule(schedule);
    Operands operands{x, w, b, gy, out};
    kernel_named(name).run(parse_problem(problem), operands, workspace, SimulatedExecutor());
    text.clear();
  } catch (const std::exception& error) {
    text = error.what();
  }
  return text.c_str();
}

}  // extern "C"
