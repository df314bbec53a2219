#include "core/kernel.h"

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <numeric>
#include <stdexcept>

namespace convkern {

const char* to_string(Device device) { return device == Device::cpu ? "cpu" : "cuda"; }

const char* to_string(KernelDType dtype) {
  switch (dtype) {
    case KernelDType::f32:
      return "f32";
    case KernelDType::f64:
      return "f64";
    case KernelDType::bf16:
      return "bf16";
    case KernelDType::f16:
      return "f16";
    case KernelDType::half:
      return "half";
    case KernelDType::any:
      return "any";
  }
  return "?";
}

namespace {
constexpr const char* kIsaNames[] = {// in the order of Isa
                                     "baseline", "avx2", "avx512", "avx512bf16"};
}

const char* to_string(Isa isa) { return kIsaNames[static_cast<size_t>(isa)]; }

Isa parse_isa(std::string_view name) {
  std::string names;
  for (size_t isa = 0; isa < std::size(kIsaNames); ++isa) {
    if (name == kIsaNames[isa]) return static_cast<Isa>(isa);
    names += kIsaNames[isa] + std::string(", ");
  }
  throw std::invalid_argument("ISA must be one of " + names + "got '" + std::string(name) + "'");
}

const char* to_string(Precision precision) {
  switch (precision) {
    case Precision::highest:
      return "highest";
    case Precision::high:
      return "high";
    case Precision::medium:
      return "medium";
    case Precision::tf32:
      return "tf32";
  }
  return "?";
}

Precision parse_precision(std::string_view name) {
  for (const Precision precision : {Precision::highest, Precision::high, Precision::medium}) {
    if (name == to_string(precision)) return precision;
  }
  throw std::invalid_argument("float32 precision must be highest, high or medium, got '" +
                              std::string(name) + "'");
}

Kernel::Kernel(Pass pass, const Algorithm& algorithm, const Target& target)
    : Target(target),
      pass(pass),
      algorithm(algorithm.name),
      deterministic(algorithm.deterministic),
      precision(algorithm.precision),
      plan(algorithm.plan(pass)),
      declines(algorithm.declines) {
  std::snprintf(name, sizeof(name), "%s.%s.%s.%s", to_string(pass), algorithm.name,
                to_string(dtype), device == Device::cpu ? to_string(isa) : to_string(device));
}

void add_kernels(const Algorithm& algorithm, const Target& target, std::vector<Kernel>& kernels) {
  for (const Pass pass : kAllPasses) kernels.emplace_back(pass, algorithm, target);
}

namespace {

// Letters to insert, leave out or replace to make one text of the other (Levenshtein).
size_t distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string unknown_name(std::string_view name, const std::vector<std::string>& names) {
  std::string closest, all;
  for (const std::string& other : names) {
    if (closest.empty() || distance(name, other) < distance(name, closest)) closest = other;
    all += (all.empty() ? "" : ", ") + other;
  }
  return "no kernel is named '" + std::string(name) + "'; the closest is '" + closest +
         "', there are " + all;
}

}  // namespace convkern
