// Certifies the CPU kernels: runs their algorithms on integers modulo the prime p = 2^61 - 19713
// and compares the results with the plain sum, exactly.
//
// Every result of a kernel is a polynomial in the operands, of degree 2. Suppose that it differs
// from the plain sum, because a term is left out, repeated, misplaced or weighted wrongly. The
// difference then vanishes for at most 2 / p of all operands (Schwartz and Zippel). Random operands
// therefore show it, except with that probability.
//
//   for f in tests/kernels/certify/kernels/*.cpp; do
//     g++ -std=c++20 -O0 -Icsrc -Itests/kernels/certify -c $f
//   done
//   g++ -std=c++20 -O2 -Icsrc -o certify tests/kernels/certify/*.cpp csrc/core/*.cpp
//       csrc/cpu/choice.cpp csrc/cpu/fft_size.cpp *.o
//
// The files of cuda/ are linked with the simulator instead; see tests/support/certify_program.py.
//
//   certify SEED BEGIN END [PROBLEM...]
//
// runs the given problems and the random problems of the seed with numbers from BEGIN to END,
// exclusive. Each is run by every kernel that supports it, except that fft leaves out most of the
// random problems that take it long. If END is not 0, all kernels must have run.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>

#include "cpu/fft_size.h"
#include "kernels.h"
#include "lanes.h"
#include "memory.h"
#include "plain_sum.h"
#include "played_threads.h"
#include "random_problem.h"

namespace convkern {
namespace {

struct Count {
  int64_t problems = 0, runs = 0, faults = 0;
  std::map<std::string, int64_t> runs_of;  // by kernel
  // The periods of fft that were run: the pass, whether along rows, the points, and whether a whole
  // image lies in one.
  std::set<std::tuple<Pass, bool, int64_t, bool>> periods;

  void see_periods(const cpu::FftSize& size) {
    periods.insert({size.rows.pass, false, size.rows.points, size.rows.whole});
    periods.insert({size.rows.pass, true, size.columns.points, size.columns.whole});
  }
};

struct Tensors {
  Memory x, w, b, gy, out;

  Tensors(const Problem& p, Random& random)
      : x(p.N * p.C * p.H * p.W, random.below(2)),
        w(p.O * p.Cg * p.R * p.S, random.below(2)),
        b(p.bias ? p.O : 0, random.below(2)),
        gy(p.N * p.O * p.OH() * p.OW(), random.below(2)),
        out(p.pass == Pass::forward      ? gy.size()
            : p.pass == Pass::grad_input ? x.size()
                                         : w.size(),
            random.below(2)) {
    for (Memory* operand : {&x, &w, &b, &gy}) {
      std::generate_n(operand->data(), operand->size(), [&] { return random.operand(); });
    }
  }
  Operands operands() {
    return {x.data(), w.data(), b.size() > 0 ? b.data() : nullptr, gy.data(), nullptr, out.data()};
  }
};

// Returns how the result of a run differs from the expected one, or an empty text.
std::string fault(Memory& out, const std::vector<Mod>& expected, const Memory& workspace) {
  for (int64_t i = 0; i < out.size(); ++i) {
    const Mod is = out.data()[i], wanted = expected[i];
    if (is == wanted) continue;
    const std::string what = is.value & Mod::kUnwritten ? "comes from memory that was not written"
                                                        : "is " + std::to_string(is.value);
    return "element " + std::to_string(i) + " " + what + ", not " + std::to_string(wanted.value);
  }
  if (!out.is_kept()) return "writes beyond the result";
  if (has_judged_unwritten) return "compares a number from memory that was not written";
  return workspace.is_kept() ? "" : "writes beyond the workspace";
}

bool is_fft(const Kernel& kernel) { return kernel.algorithm == std::string_view("fft"); }

// Returns whether the transforms of all planes have so many numbers that fft takes much longer than
// other kernels do. Random problems often have many channels and few products for each.
bool takes_fft_long(const Problem& p) {
  constexpr int64_t kManyNumbers = 1 << 14;
  const cpu::FftSize size(p);
  const int64_t planes = p.N * (p.C + p.O) * size.rows.tiles * size.columns.tiles + p.O * p.Cg;
  return planes * size.rows.points * size.columns.points > kManyNumbers;
}

void certify(Problem p, Random random, bool is_given, Count& count) {
  p.activation = {};
  const PlayedThreads executor(static_cast<int>(1 + random.below(3)), random);
  Tensors tensors(p, random);
  const std::vector<Mod> expected = plain_sum(p, tensors.operands(), tensors.out.size());
  auto run = [&](const Kernel& kernel, const Plan& plan, const Operands& operands,
                 const char* how) {
    tensors.out.clear();
    has_judged_unwritten = false;
    const int64_t bytes = plan.workspace(executor.threads());
    Memory workspace(ceil_div(bytes, sizeof(Mod)), 0);
    plan.run(operands, workspace.data(), executor);
    const std::string what = fault(tensors.out, expected, workspace);
    ++count.runs;
    ++count.runs_of[kernel.name];
    if (is_fft(kernel)) count.see_periods(cpu::FftSize(p));
    if (what.empty()) return;
    ++count.faults;
    std::printf("%s%s, %s, threads %d: %s\n", kernel.name, how, to_string(p).c_str(),
                executor.threads(), what.c_str());
  };
  ++count.problems;
  const bool without_fft = !is_given && takes_fft_long(p) && random.below(16) != 0;
  for (const Kernel& kernel : cpu::mod_kernels()) {
    if (kernel.pass != p.pass || (without_fft && is_fft(kernel))) continue;
    const Planned planned = kernel.plan(p);
    if (planned.reason != Reason::none) continue;
    const Plan& plan = *planned.plan;
    Operands operands = tensors.operands();
    run(kernel, plan, operands, "");
    if (plan.packed_bytes() == 0) continue;
    Memory packed(ceil_div(plan.packed_bytes(), sizeof(Mod)), 0);
    plan.pack(operands.w, packed.data(), executor);
    operands.w = nullptr;
    operands.packed = packed.data();
    run(kernel, plan, operands, " with packed weights");
  }
}

// Prints what was run. Returns whether all kernels were.
bool report(const Count& count) {
  bool all = true;
  std::map<std::string, int64_t> of_algorithm;
  for (const Kernel& kernel : cpu::mod_kernels()) {
    const auto runs = count.runs_of.find(kernel.name);
    if (runs == count.runs_of.end()) {
      std::printf("%s has not run\n", kernel.name);
      all = false;
    } else {
      of_algorithm[std::string(to_string(kernel.pass)) + "." + kernel.algorithm] += runs->second;
    }
  }
  for (const auto& [algorithm, runs] : of_algorithm) {
    std::printf("%-22s %lld\n", algorithm.c_str(), static_cast<long long>(runs));
  }
  constexpr size_t kPeriods = std::size(kAllPasses) * 2 * std::size(cpu::kFftPoints) * 2;
  if (!count.periods.empty()) {
    std::printf("fft: %zu of %zu periods\n", count.periods.size(), kPeriods);
  }
  const double missed = 2.0 / static_cast<double>(Mod::kPrime);
  std::printf("%lld problems, %lld runs of %zu kernels, %lld faults\n",
              static_cast<long long>(count.problems), static_cast<long long>(count.runs),
              count.runs_of.size(), static_cast<long long>(count.faults));
  std::printf("a fault of a run is missed with a probability of at most %.1e, in all runs %.1e\n",
              missed, missed * static_cast<double>(count.runs));
  return all;
}

}  // namespace
}  // namespace convkern

int main(int argument_count, char** arguments) {
  using namespace convkern;
  if (argument_count < 4) {
    std::fprintf(stderr, "usage: certify SEED BEGIN END [PROBLEM...]\n");
    return 2;
  }
  auto number = [&](int i) { return std::strtoull(arguments[i], nullptr, 10); };
  const uint64_t seed = number(1), begin = number(2), end = number(3);
  Count count;
  for (int i = 4; i < argument_count; ++i) {
    certify(parse_problem(arguments[i]), Random(seed, -i), /*is_given=*/true, count);
  }
  for (uint64_t i = begin; i < end; ++i) {
    Random random(seed, i);
    const Problem problem = ProblemSource(random).next();
    certify(problem, random, /*is_given=*/false, count);
  }
  const bool all = report(count) || end == 0;
  return count.faults == 0 && count.runs > 0 && all ? 0 : 1;
}
