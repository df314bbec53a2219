// The parts of the program. Each returns its exit status.
#pragma once

#include <string>
#include <vector>

#include "core/choose.h"

int check_kernels(int threads, const std::vector<std::string>& problems);
int fuzz_plans(unsigned seed, int count);
