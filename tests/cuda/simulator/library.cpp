// The CUDA kernels in the simulator, as a library that the tests call.
#include <cstring>
#include <algorithm>
#include <exception>
#include <iterator>
#include <functional>
#include <stdexcept>
#include <string>

#include "core/kernel.h"
#include "core/problem.h"
#include "cuda/device_ops.cuh"
#include "cuda/direct/blocking.h"
#include "cuda/gemm/passes.h"
#include "cuda/kernel_list.h"

namespace {

using namespace convkern;

thread_local std::string text;  // holds the text that is returned

// The simulator has no stream: a launch returns when it is done.
class SimulatedExecutor : public Executor {
 public:
  int threads() const override { return 1; }
  void run(int64_t count, int64_t, Body body) const override { body(0, count, 0); }
};

// Plans a problem as a chooser does.
Planned plan_of(const Kernel& kernel, const Problem& p) {
  return plan_with_padding(kernel.plan, p, cuda::kernel_list().padding);
}

const Kernel& kernel_named(const char* name) {
  for (const Kernel& kernel : cuda::kernel_list()) {
    if (std::string(kernel.name) == name) return kernel;
  }
  throw std::invalid_argument(std::string("no kernel is called ") + name);
}

using Expect = std::function<void(bool holds, const char* what)>;

bool launch_fails(convkern::FunctionRef<void()> body) {
  try {
    simulator::launch(dim3(1), dim3(32), 0, body);
  } catch (const std::runtime_error&) {
    return true;
  }
  return false;
}

// Checks ldmatrix as the PTX ISA defines it. Thread t gets elements 2 * (t % 4) and 2 * (t % 4) + 1
// of row t / 4 of each matrix. With .trans these are elements of the transposed matrix.
void check_load_matrices(const Expect& expect) {
  alignas(128) static uint16_t matrices[4][8][8];
  for (int i = 0; i < 256; ++i) matrices[i / 64][i / 8 % 8][i % 8] = static_cast<uint16_t>(i);
  simulator::launch(dim3(1), dim3(32), 0, [&] {
    const int t = simulator::lane();
    uint32_t plain[4], transposed[4];
    cuda::load_matrices(plain, matrices[t / 8][t % 8]);
    cuda::load_matrices_transposed(transposed, matrices[t / 8][t % 8]);
    for (int i = 0; i < 4; ++i) {
      const uint32_t first = 64 * i + t / 4 * 8 + t % 4 * 2;
      expect(plain[i] == (first | (first + 1) << 16), "ldmatrix");
      const uint32_t above = 64 * i + t % 4 * 2 * 8 + t / 4;
      expect(transposed[i] == (above | (above + 8) << 16), "ldmatrix.trans");
    }
  });
  expect(launch_fails([] {
           uint32_t to[4];
           cuda::load_matrices(to, &matrices[0][0][simulator::lane() == 3 ? 4 : 0]);
         }),
         "ldmatrix of a row that is not aligned was let through");
  expect(launch_fails([] {
           uint32_t to[4];
           cuda::load_matrices(to, matrices[simulator::lane() / 8][simulator::lane() % 8 / 2 * 2]);
         }),
         "bank conflicts of ldmatrix were let through");
}

// The fragments of mma as the PTX ISA defines them: the place of element i of thread t. If kWide, a
// register has two elements (m16n8k16), and otherwise one (m16n8k8).
template <bool kWide>
struct Fragments {
  static int a_row(int t, int i) { return t / 4 + ((kWide ? i / 2 : i) % 2 == 1 ? 8 : 0); }
  static int a_term(int t, int i) {
    return kWide ? t % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0) : t % 4 + (i >= 2 ? 4 : 0);
  }
  static int b_term(int t, int i) {
    return kWide ? t % 4 * 2 + i % 2 + (i >= 2 ? 8 : 0) : t % 4 + (i >= 1 ? 4 : 0);
  }
  static int b_column(int t, int) { return t / 4; }
  static int c_row(int t, int i) { return t / 4 + (i >= 2 ? 8 : 0); }
  static int c_column(int t, int i) { return t % 4 * 2 + i % 2; }
};

// Compares mma with the plain product of matrices of small integers, which is exact.
template <class Element>
void check_mma(const Expect& expect, const char* what) {
  constexpr bool kWide = sizeof(Element) == 2;
  using F = Fragments<kWide>;
  constexpr int kTerms = kWide ? 16 : 8;
  auto a = [](int row, int term) { return row * 7 % 11 - 5 + term * term % 7; };
  auto b = [](int term, int column) { return term * 5 % 13 - 6 + column * 3 % 5; };
  simulator::launch(dim3(1), dim3(32), 0, [&] {
    const int t = simulator::lane();
    Element of_a[16 / sizeof(Element)], of_b[8 / sizeof(Element)];
    for (int i = 0; i < static_cast<int>(std::size(of_a)); ++i) {
      of_a[i] = from_double<Element>(a(F::a_row(t, i), F::a_term(t, i)));
    }
    for (int i = 0; i < static_cast<int>(std::size(of_b)); ++i) {
      of_b[i] = from_double<Element>(b(F::b_term(t, i), F::b_column(t, i)));
    }
    uint32_t rows[4], columns[2];
    std::memcpy(rows, of_a, sizeof(rows));
    std::memcpy(columns, of_b, sizeof(columns));
    if constexpr (!kWide) {  // bits that TF32 does not hold must be ignored
      for (uint32_t& word : rows) word |= 0x1fff;
      for (uint32_t& word : columns) word |= 0x1fff;
    }
    float sums[4] = {1, 2, 3, 4};
    cuda::mma<Element>(sums, rows, columns);
    for (int i = 0; i < 4; ++i) {
      int expected = 1 + i;
      for (int term = 0; term < kTerms; ++term) {
        expected += a(F::c_row(t, i), term) * b(term, F::c_column(t, i));
      }
      expect(sums[i] == static_cast<float>(expected), what);
    }
  });
}

}  // namespace

extern "C" {

// Returns the name of a kernel in the list, or null beyond the last.
const char* convkern_kernel_name(int index) {
  const KernelList list = cuda::kernel_list();
  return index < static_cast<int>(list.count) ? list.first[index].name : nullptr;
}

const char* convkern_kernel_pass(const char* name) { return to_string(kernel_named(name).pass); }
const char* convkern_kernel_algorithm(const char* name) { return kernel_named(name).algorithm; }
const char* convkern_kernel_dtype(const char* name) { return to_string(kernel_named(name).dtype); }

// Returns why the kernel does not run a problem, or an empty text if it runs it.
const char* convkern_rejection(const char* name, const char* problem) {
  const Reason reason = plan_of(kernel_named(name), parse_problem(problem)).reason;
  return reason == Reason::none ? "" : to_string(reason);
}

int64_t convkern_workspace(const char* name, const char* problem) {
  return plan_of(kernel_named(name), parse_problem(problem)).plan->workspace(1);
}

// Returns the columns of the tile that implicit_gemm chooses for forward and grad_input.
int convkern_tile_columns(int64_t pixels, int64_t columns, int64_t groups, int multiprocessors) {
  return cuda::tile_columns(cuda::correlation_tile(pixels, columns, groups, multiprocessors));
}

int64_t convkern_correlation_splits(int64_t pixels, int64_t columns, int64_t groups, int64_t steps,
                                    int64_t least, int64_t bytes) {
  return cuda::correlation_splits(pixels, columns, groups, steps, least, bytes);
}

int64_t convkern_weight_splits(int64_t pixels, int64_t blocks, int64_t bytes) {
  return cuda::weight_splits(pixels, blocks, bytes);
}

// Writes the blocks that direct chooses for the first part of the pass: images and channels of a
// block, threads, threads that compute, and bytes of shared memory.
void convkern_direct_plan(const char* text, int* sizes) {
  const Problem p = parse_problem(text);
  const int bytes = p.dtype == DType::f64 ? sizeof(double) : sizeof(float);
  cuda::PlaneBlocking blocking;
  if (p.pass == Pass::grad_weight) {
    blocking = cuda::weight_blocking(cuda::weight_rows(p), cuda::weight_columns(p),
                                     cuda::plane_counts(p, p.O * p.Cg, bytes));
  } else {
    const int64_t channels = cuda::columns_of(p) * p.groups;
    cuda::for_each_part(p, {}, [&](const cuda::Part& part) {
      if (blocking.images > 0) return;
      blocking =
          cuda::correlation_blocking(cuda::WindowAxis(part.rows), cuda::WindowAxis(part.columns),
                                     cuda::plane_counts(p, channels, bytes));
    });
  }
  const int used = static_cast<int>(blocking.used_threads());
  const int shared = static_cast<int>(blocking.elements) * bytes;
  const int all[] = {blocking.images, blocking.channels, blocking.threads, used, shared};
  std::copy(std::begin(all), std::end(all), sizes);
}

bool convkern_fits_int32(const char* problem) { return cuda::fits_int32(parse_problem(problem)); }

// Checks the simulator itself: two warps exchange numbers in every way. Returns the primitive that
// is wrong, or an empty text. No kernel here would show such an error.
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
  expect(launch_fails([] { __shfl_sync(0xff, 1, 9); }), "a lane out of its mask was let through");
  expect(launch_fails([] { __shfl_sync(0xffff0000 >> simulator::lane(), 1, 9); }),
         "masks that differ");
  expect(launch_fails([] {
           if (simulator::lane() > 0) __syncwarp();
         }),
         "a lane that never arrives");
  check_load_matrices(expect);
  check_mma<BFloat16>(expect, "mma of bfloat16");
  check_mma<Half>(expect, "mma of float16");
  check_mma<float>(expect, "mma of float");
  // 0x3f801000 is 1 + 2^-11, a tie. 0x3f800fff is the float below it.
  expect(cuda::round_to_tf32(0x3f801000) == 0x3f802000, "a tie to TF32");
  expect(cuda::round_to_tf32(0xbf800fff) == 0xbf800000, "rounding to TF32");
  expect(cuda::round_to_tf32(0x7f7fffff) == 0x7f800000, "overflow of TF32");
  expect(cuda::round_to_tf32(0x7fffffff) == 0x7fffffff, "NaN as TF32");
  return text.c_str();
}

// Runs a kernel in one schedule of threads. Returns what went wrong, or an empty text.
const char* convkern_run(const char* name, const char* problem, unsigned schedule, const void* x,
                         const void* w, const void* b, const void* gy, const void* residual,
                         void* out, void* workspace) {
  try {
    simulator::set_schedule(schedule);
    Operands operands{x, w, b, gy, residual, out};
    const Planned planned = plan_of(kernel_named(name), parse_problem(problem));
    planned.plan->run(operands, workspace, SimulatedExecutor());
    text.clear();
  } catch (const std::exception& error) {
    text = error.what();
  }
  return text.c_str();
}

}  // extern "C"
