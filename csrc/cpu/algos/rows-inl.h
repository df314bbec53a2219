// Rows of the kernel list.
#pragma once

namespace convkern::cpu {
namespace {

// What a kernel computes, as in Kernel.
struct Functions {
  Reason (*supports)(const Problem&);
  int64_t (*workspace)(const Problem&, int threads);
  void (*run)(const Problem&, const Operands&, void* workspace, const Executor&);
  Reason (*declines)(const Problem&);
  Packing packing;
};

using RunKernel = void (*)(const Problem&, const Operands&, void* workspace, const Executor&);

// Of the kernel that kRun runs.
template <RunKernel kRun>
constexpr Packing packing{};

constexpr Kernel row(const char* name, Pass pass, Isa isa, const Functions& f,
                     Precision precision = Precision::highest) {
  return {name,       pass,      isa,      /*deterministic=*/true, f.supports, f.workspace, f.run,
          f.declines, precision, f.packing};
}

}  // namespace
}  // namespace convkern::cpu
