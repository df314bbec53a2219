#include "core/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <stdexcept>

#include "core/config.h"

namespace convkern {
namespace {

std::string listed(const std::vector<Rejection>& rejected) {
  std::string text;
  for (const Rejection& r : rejected) {
    text += std::string(text.empty() ? "" : "; ") + r.kernel->name + " " + to_string(r.reason);
  }
  return text;
}

// Keeps the first kernel for each reason. It drops kernels whose instruction set this processor
// lacks or the user has excluded, because that is no news.
std::string news(const std::vector<Rejection>& rejected) {
  std::vector<Rejection> first;
  std::set<Reason> told = {Reason::isa_not_available, Reason::isa_capped};
  for (const Rejection& r : rejected) {
    if (told.insert(r.reason).second) first.push_back(r);
  }
  return listed(first);
}

// Returns text such as ", 63% of the roof": the least time that this machine needs as a share of
// the time taken. Returns an empty string where the roof was not measured.
std::string share_of_roof(const Problem& problem, Device device, int threads, double seconds) {
  const Roof& roof = config().roof;
  const bool known = device == Device::cpu && problem.dtype == DType::f32;
  if (!known || threads != roof.threads) return "";
  const double least = std::max(problem.real_flops() / roof.flops,
                                static_cast<double>(problem.min_bytes()) / roof.bandwidth);
  return ", " + std::to_string(std::lround(100 * least / seconds)) + "% of the roof";
}

}  // namespace

std::string fallback_warning(const Problem& problem, const Kernel& kernel,
                             const std::vector<Rejection>& rejected) {
  const std::string why = news(rejected);
  static auto* reported = new std::set<std::string>;  // leaked: threads may outlive statics
  const ProcessLock lock(process_mutex());
  if (!reported->insert(kernel.name + why).second) return "";
  return std::string("convkern: the slow reference kernel ") + kernel.name + " runs " +
         to_string(problem) + " (" + why + "). This is said once for each reason.";
}

void refuse_fallback(const Problem& problem, const Kernel& kernel,
                     const std::vector<Rejection>& rejected) {
  throw std::runtime_error(std::string("convkern: only the reference kernel ") + kernel.name +
                           " supports " + to_string(problem) + ", and CONVKERN_STRICT is set (" +
                           news(rejected) + ")");
}

void log_choice(const Problem& problem, const Kernel& kernel,
                const std::vector<Rejection>& rejected) {
  const Verbosity verbosity = config().verbosity;
  if (verbosity >= Verbosity::dispatch) {
    std::fprintf(stderr, "convkern: %s -> %s\n", to_string(problem).c_str(), kernel.name);
  }
  if (verbosity == Verbosity::plan && !rejected.empty()) {
    std::fprintf(stderr, "convkern:   not %s\n", listed(rejected).c_str());
  }
}

void log_time(const Problem& problem, Device device, int threads, double seconds) {
  std::fprintf(stderr, "convkern:   %.3f ms, %.1f GFLOP/s%s\n", seconds * 1e3,
               problem.real_flops() / seconds * 1e-9,
               share_of_roof(problem, device, threads, seconds).c_str());
}

}  // namespace convkern
