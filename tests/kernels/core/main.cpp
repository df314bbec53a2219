// The CPU kernels without torch: a program for sanitizers, emulators and other processors.
//
//   g++ -std=c++20 -O2 -Icsrc -o check_core tests/kernels/core/*.cpp csrc/core/*.cpp csrc/cpu/*.cpp
//       csrc/cpu/isa/*.cpp -pthread
//
//   check_core kernels THREADS [PROBLEM...]   compares every kernel with the plain sum, on these
//                                             problems or those of the standard input
//   check_core plans SEED COUNT               plans random problem strings
//
// -DCONVKERN_PORTABLE leaves out the kernels for x86-64's instruction sets, which take minutes to
// compile.
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "programs.h"

int main(int count, char** arguments) {
  const std::vector<std::string> words(arguments + 1, arguments + count);
  if (words.size() >= 2 && words[0] == "kernels") {
    std::vector<std::string> problems(words.begin() + 2, words.end());
    if (problems.empty()) {
      for (std::string line; std::getline(std::cin, line);) problems.push_back(line);
    }
    return check_kernels(std::atoi(words[1].c_str()), problems);
  }
  if (words.size() == 3 && words[0] == "plans") {
    return fuzz_plans(std::strtoul(words[1].c_str(), nullptr, 10), std::atoi(words[2].c_str()));
  }
  std::fprintf(stderr, "usage: check_core kernels THREADS [PROBLEM...] | plans SEED COUNT\n");
  return 2;
}
