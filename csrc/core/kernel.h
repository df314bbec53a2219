// A kernel is one pass of an algorithm for a dtype and an instruction set: a row of the kernel list
// of its device. This file has the types that such a row is made of.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/executor.h"
#include "core/plan.h"
#include "core/problem.h"
#include "core/reason.h"

namespace convkern {

enum class Device : uint8_t { cpu, cuda };

// Instruction sets of the CPU kernels, each including those before it. Kernels of other devices
// have `baseline`.
enum class Isa : uint8_t { baseline, avx2, avx512, avx512bf16 };

// How accurate results must be. Under `highest` every kernel computes the direct sum, in any order,
// so that each result is as accurate as its own terms allow. Under `high` algorithms are allowed
// too whose largest error, relative to the root mean square of the results, is at most twice
// torch's. Under `medium` float32 algorithms may round more. Under `tf32` operands may also be
// rounded to TF32, which keeps 10 bits after the point.
enum class Precision : uint8_t { highest, high, medium, tf32 };

// The dtype of the problems that a kernel computes: a single one, both 16-bit dtypes (half), or all
// of them (any).
enum class KernelDType : uint8_t { f32, f64, bf16, f16, half, any };

const char* to_string(Device device);
const char* to_string(KernelDType dtype);
const char* to_string(Precision precision);
// Parses "highest", "high" or "medium"; TF32 is torch's to allow. Throws std::invalid_argument.
Precision parse_precision(std::string_view name);
const char* to_string(Isa isa);
Isa parse_isa(std::string_view name);  // throws std::invalid_argument

// A kernel that supports a problem, as the rules of choice see it (cpu/choice.h, cuda/choice.h).
struct Candidate {
  const Problem& problem;  // by which kernels are compared, see Plan::compared()
  int lanes;               // numbers in a vector of the kernel
  // Returns whether the kernel of another algorithm, of the same dtype and instruction set,
  // supports the problem too. It makes that kernel's plan, which takes longer than an estimate.
  FunctionRef<bool(const char* algorithm)> supported_by;
};

// Makes the plan of a problem of the kernel's pass, or says why the kernel does not compute it.
using MakePlan = Planned (*)(const Problem&);

// An algorithm. Each of its three passes becomes a kernel.
struct Algorithm {
  const char* name;
  MakePlan forward, grad_input, grad_weight;
  // Returns why the algorithm leaves a problem that it supports to the kernels after it, or
  // Reason::none. It is not asked where the kernel is forced. Where only the reference would be
  // left, the first kernel that declined runs. Null: the algorithm never declines.
  Reason (*declines)(const Candidate&) = nullptr;
  Precision precision = Precision::highest;  // the most accurate setting that allows it
  bool deterministic = true;  // bitwise equal results from run to run and for any number of threads

  constexpr MakePlan plan(Pass pass) const {
    return pass == Pass::forward ? forward : pass == Pass::grad_input ? grad_input : grad_weight;
  }
};

// The dtype, device and instruction set that an algorithm was compiled for.
struct Target {
  KernelDType dtype;
  Device device;
  Isa isa;        // Isa::baseline on other devices than the CPU
  int lanes = 1;  // numbers in a vector
};

// A kernel is identified by its pass, algorithm, dtype and instruction set (or device).
struct Kernel : Target {
  Pass pass;
  const char* algorithm;
  bool deterministic;
  Precision precision;
  MakePlan plan;
  Reason (*declines)(const Candidate&);
  // The identity for people and for forcing: pass.algorithm.dtype.isa. Kernels of other devices
  // than the CPU have the device in the place of the instruction set. The constructor composes the
  // name, and nothing takes it apart.
  char name[64];

  Kernel(Pass pass, const Algorithm& algorithm, const Target& target);
};

constexpr Pass kAllPasses[] = {Pass::forward, Pass::grad_input, Pass::grad_weight};

// Appends the kernels of the algorithm's three passes.
void add_kernels(const Algorithm& algorithm, const Target& target, std::vector<Kernel>& kernels);

struct PaddingFunctions;  // core/padding.h

// The kernels of one device, in order of preference; the last of each pass is the reference
// kernel, which supports every problem.
struct KernelList {
  const Kernel* first;
  size_t count;
  const PaddingFunctions* padding;  // of the device
  const Kernel* begin() const { return first; }
  const Kernel* end() const { return first + count; }
};

// The sentence for a name that no kernel of the lists has, with the name that is closest to it.
std::string unknown_name(std::string_view name, const std::vector<std::string>& names);

}  // namespace convkern
