// Prints the estimates of csrc/cpu/choice.h for problems, a line for each name and value:
//
//   g++ -std=c++20 -Icsrc -o choice tests/kernels/choice/main.cpp csrc/cpu/choice.cpp
//       csrc/core/*.cpp
//   choice LANES PROBLEM
#include <cstdio>
#include <cstdlib>

#include "cpu/choice.h"

int main(int count, char** arguments) {
  using namespace convkern;
  if (count != 3) return 2;
  const int lanes = std::atoi(arguments[1]);
  const Problem p = parse_problem(arguments[2]);
  const auto yes = [] { return true; };
  const auto no = [] { return false; };
  std::printf("implicit_gemm %.17g\n", cpu::estimate_implicit_gemm(p, lanes));
  std::printf("columnlane %.17g\n", cpu::estimate_columnlane(p, lanes));
  std::printf("batchlane %.17g\n", cpu::estimate_batchlane(p, lanes));
  const struct {
    const char* name;
    Reason reason;
  } rows[] = {
      {"channellane declines", cpu::channellane_declines(p, lanes)},
      {"winograd_4x4 declines", cpu::winograd_declines(p, 4)},
      {"winograd_2x2 declines", cpu::winograd_declines(p, 2)},
      {"implicit_gemm declines", cpu::implicit_gemm_declines(p, lanes, yes, yes)},
      {"implicit_gemm alone declines", cpu::implicit_gemm_declines(p, lanes, no, no)},
      {"columnlane declines", cpu::columnlane_declines(p, lanes, yes)},
      {"columnlane alone declines", cpu::columnlane_declines(p, lanes, no)},
      {"pairs decline", cpu::pairs_decline(p)},
  };
  for (const auto& row : rows) std::printf("%s %s\n", row.name, to_string(row.reason));
  return 0;
}
