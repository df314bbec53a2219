#include "core/config.h"

#include <cstdlib>
#include <stdexcept>

namespace convkern {

Verbosity parse_verbosity(std::string_view name) {
  if (name.empty()) return Verbosity::silent;
  if (name == "dispatch") return Verbosity::dispatch;
  if (name == "plan") return Verbosity::plan;
  if (name == "profile") return Verbosity::profile;
  throw std::invalid_argument("verbosity must be empty or one of dispatch, plan, profile, got '" +
                              std::string(name) + "'");
}

Config& config() {
  static Config instance;
  return instance;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace convkern
