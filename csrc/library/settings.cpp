// The C interface's functions of settings and facts of the process.
#include <algorithm>

#include "core/config.h"
#include "core/kernel.h"
#include "core/process_lock.h"
#include "cpu/cpu_features.h"
#include "cpu/peak.h"
#include "library/devices.h"
#include "library/executor.h"
#include "library/status.h"

namespace convkern::library {
namespace {

template <class Visit>
void for_each_kernel(const Visit& visit) {
  for (const Device device : {Device::cpu, Device::cuda}) {
    for (const Kernel& kernel : kernels_of(device)) visit(kernel);
  }
}

int64_t force_kernel(const std::string& name) {
  int64_t context = 0;
  std::vector<std::string> names;
  for_each_kernel([&](const Kernel& kernel) {
    names.push_back(kernel.name);
    if (name != kernel.name) return;
    context = config().new_context();
    config().forced_for(kernel.device, kernel.pass).enter(context, &kernel);
  });
  if (context == 0) throw std::invalid_argument(unknown_name(name, names));
  return context;
}

int64_t cap_isa(const char* name) {
  const Isa isa = parse_isa(name);
  const int64_t context = config().new_context();
  config().isa_cap.enter(context, isa);
  return context;
}

void set(const std::string& setting, const std::string& value) {
  if (setting == "precision") {
    config().precision = parse_precision(value);
  } else if (setting == "verbosity") {
    config().verbosity = parse_verbosity(value);
  } else if (setting == "strict") {
    config().strict = value == "1";
  } else if (setting == "batch_invariant") {
    config().batch_invariant = value == "1";
  } else {
    throw std::invalid_argument("there is no setting '" + setting + "'");
  }
}

void configure_from_environment() {
  const std::string isa = environment("CONVKERN_ISA");
  if (!isa.empty()) cap_isa(isa.c_str());
  const std::string precision = environment("CONVKERN_PRECISION");
  if (!precision.empty()) set("precision", precision);
  set("batch_invariant", environment("CONVKERN_BATCH_INVARIANT"));
  set("verbosity", environment("CONVKERN_VERBOSE"));
  set("strict", environment("CONVKERN_STRICT"));
  const std::string names = environment("CONVKERN_KERNEL");
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    force_kernel(names.substr(begin, end - begin));
    begin = end + 1;
  }
}

const char* cpu_features() {
  static const std::string text = [] {
    std::string joined;
    for (const std::string& name : cpu::feature_names())
      joined += (joined.empty() ? "" : " ") + name;
    return joined;
  }();
  return text.c_str();
}

}  // namespace
}  // namespace convkern::library

using namespace convkern;
using namespace convkern::library;

extern "C" {

const char* convkern_last_error(void) { return last_error().c_str(); }

int convkern_kernel_at(size_t index, convkern_kernel_row* row) {
  size_t at = 0;
  bool found = false;
  for_each_kernel([&](const Kernel& kernel) {
    if (at++ != index) return;
    *row = {kernel.name,
            to_string(kernel.pass),
            kernel.algorithm,
            to_string(kernel.dtype),
            to_string(kernel.device),
            to_string(kernel.isa),
            to_string(kernel.precision),
            kernel.deterministic};
    found = true;
  });
  return found;
}

convkern_status convkern_set(const char* setting, const char* value) {
  return guarded([&] { set(setting, value); });
}

const char* convkern_get(const char* name) {
  const std::string wanted = name;
  if (wanted == "precision") return to_string(config().precision.load());
  if (wanted == "verbosity") return to_string(config().verbosity.load());
  if (wanted == "strict") return config().strict ? "1" : "0";
  if (wanted == "batch_invariant") return config().batch_invariant ? "1" : "0";
  if (wanted == "isa_cap") return to_string(Isa{config().isa_cap});
  if (wanted == "available_isa") return to_string(cpu::available_isa());
  if (wanted == "cpu_features") return cpu_features();
  if (wanted == "compiler") return __VERSION__;
  if (wanted == "cuda") return cuda_version().c_str();
  return nullptr;
}

convkern_status convkern_configure_from_environment(void) {
  return guarded([] { configure_from_environment(); });
}

convkern_status convkern_force_kernel(const char* name, int64_t* context) {
  return guarded([&] { *context = force_kernel(name); });
}

convkern_status convkern_cap_isa(const char* isa, int64_t* context) {
  return guarded([&] { *context = cap_isa(isa); });
}

convkern_status convkern_leave(int64_t context) {
  return guarded([&] { config().leave(context); });
}

convkern_status convkern_load_cuda(const char* path) {
  return guarded([&] { load_cuda(path); });
}

convkern_status convkern_measure_peak(const convkern_executor* executor, const char* isa,
                                      double* flops, double* bandwidth) {
  return guarded([&] {
    const Isa measured = std::min(parse_isa(isa), cpu::available_isa());
    const cpu::Peak peak = cpu::measure_peak(measured, CallersExecutor(*executor));
    *flops = peak.flops;
    *bandwidth = peak.bandwidth;
  });
}

void convkern_set_roof(int threads, double flops, double bandwidth) {
  config().roof = {threads, flops, bandwidth};
}

void convkern_lock(void) { process_mutex().lock(); }
void convkern_unlock(void) { process_mutex().unlock(); }

}  // extern "C"
