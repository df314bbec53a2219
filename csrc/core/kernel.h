// What a kernel is: a row of a device's kernel list.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/executor.h"
#include "core/problem.h"
#include "core/reason.h"

namespace convkern {

enum class Device : uint8_t { cpu, cuda };

// Instruction sets of the CPU kernels, each including those before it. Device kernels of other
// kinds are `baseline`.
enum class Isa : uint8_t { baseline, avx2, avx512, avx512bf16 };

// The accuracy that float32 sums may cost. Under `highest` kernels compute the direct sum, in any
// order; under `high` also algorithms whose intermediate results are larger than the terms; under
// `tf32` also products of operands that are rounded to TF32, of 10 bits after the point.
enum class Precision : uint8_t { highest, high, tf32 };

// The dtype of the problems that a kernel computes: one, both 16-bit dtypes (half), or all (any).
enum class KernelDType : uint8_t { f32, f64, bf16, f16, half, any };

const char* to_string(Device device);
const char* to_string(KernelDType dtype);
const char* to_string(Precision precision);
// Parses "highest" or "high"; TF32 is torch's to allow. Throws std::invalid_argument.
Precision parse_precision(std::string_view name);
const char* to_string(Isa isa);
Isa parse_isa(std::string_view name);  // throws std::invalid_argument

// Raw operands of one pass: x (N, C, H, W), gy and y (N, O, OH, OW) dense in the problem's layout,
// w and gw (O, C / groups, R, S) contiguous, b (O,). The pass says which are read:
//   forward      x, w, b (null without bias) -> y
//   grad_input   gy, w -> gx
//   grad_weight  gy, x -> gw
struct Operands {
  const void* x = nullptr;
  const void* w = nullptr;
  const void* b = nullptr;
  const void* gy = nullptr;
  void* out = nullptr;           // y, gx or gw; every element is written
  const void* packed = nullptr;  // w as Packing::pack left it, in place of w
};

// How a forward kernel rearranges the weights before it uses them, for callers that keep the result
// from call to call; it depends on the weights and groups only. Null where a kernel does not.
struct Packing {
  int64_t (*bytes)(const Problem&) = nullptr;  // of the result, 64-byte aligned
  void (*pack)(const Problem&, const void* w, void* packed, const Executor&) = nullptr;
};

// The functions of a kernel: one pass of an algorithm.
struct Functions {
  // Why the kernel does not compute a problem of its pass; Reason::none if it does.
  Reason (*supports)(const Problem&);
  // Bytes of scratch memory, 64-byte aligned, that run() needs with so many threads.
  int64_t (*workspace)(const Problem&, int threads);
  void (*run)(const Problem&, const Operands&, void* workspace, const Executor&);
  Packing packing = {};
};

// An algorithm and its three passes, which become a kernel each.
struct Algorithm {
  const char* name;
  Functions forward, grad_input, grad_weight;
  // Why, unless forced, to leave a supported problem to the kernels after it; null: never.
  Reason (*declines)(const Problem&) = nullptr;
  Precision precision = Precision::highest;  // the best that it gives
  bool deterministic = true;  // bitwise equal results from run to run and for any number of threads

  constexpr const Functions& functions(Pass pass) const {
    return pass == Pass::forward ? forward : pass == Pass::grad_input ? grad_input : grad_weight;
  }
};

// A kernel is identified by its pass, algorithm, dtype and instruction set (or device).
struct Kernel : Functions {
  Pass pass;
  const char* algorithm;
  KernelDType dtype;
  Device device;
  Isa isa;  // Isa::baseline on other devices than the CPU
  bool deterministic;
  Precision precision;
  Reason (*declines)(const Problem&);
  // The identity for people and for forcing: pass.algorithm.dtype.isa, or the device in the place
  // of the instruction set. It is composed by the constructor and never taken apart.
  char name[64];

  Kernel(Pass pass, const Algorithm& algorithm, KernelDType dtype, Device device, Isa isa);
};

constexpr Pass kAllPasses[] = {Pass::forward, Pass::grad_input, Pass::grad_weight};

// Appends the kernels of the algorithm's three passes.
void add_kernels(const Algorithm& algorithm, KernelDType dtype, Device device, Isa isa,
                 std::vector<Kernel>& kernels);

// The kernels of one device, in order of preference; the last of each pass is the reference
// kernel, which supports every problem.
struct KernelList {
  const Kernel* first;
  size_t count;
  const Kernel* begin() const { return first; }
  const Kernel* end() const { return first + count; }
};

// The sentence for a name that no kernel of the lists has, with the name that is closest to it.
std::string unknown_name(std::string_view name, const std::vector<std::string>& names);

}  // namespace convkern
