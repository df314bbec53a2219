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
  using namespace convkern::cpu::choice;
  if (count != 3) return 2;
  const int lanes = std::atoi(arguments[1]);
  const Problem p = parse_problem(arguments[2]);
  const auto yes = [](const char*) { return true; };
  const auto no = [](const char*) { return false; };
  const Candidate candidate{p, lanes, yes}, alone{p, lanes, no};
  std::printf("implicit_gemm %.17g\n", estimate_implicit_gemm(p, lanes));
  std::printf("columnlane %.17g\n", estimate_columnlane(p, lanes));
  std::printf("batchlane %.17g\n", estimate_batchlane(p, lanes));
  const struct {
    const char* name;
    Reason reason;
  } rows[] = {
      {"fft declines", fft_declines(candidate)},
      {"channellane declines", channellane_declines(candidate)},
      {"winograd_4x4 declines", winograd_4x4_declines(candidate)},
      {"winograd_2x2 declines", winograd_2x2_declines(candidate)},
      {"skinny_gemm declines", skinny_gemm_declines(candidate)},
      {"implicit_gemm declines", implicit_gemm_declines(candidate)},
      {"implicit_gemm alone declines", implicit_gemm_declines(alone)},
      {"columnlane declines", columnlane_declines(candidate)},
      {"columnlane alone declines", columnlane_declines(alone)},
      {"pairs decline", pairs_decline(candidate)},
  };
  for (const auto& row : rows) std::printf("%s %s\n", row.name, to_string(row.reason));
  return 0;
}
