#include "core/config.h"

#include <cstdlib>
#include <stdexcept>

namespace convkern {

const char* to_string(Verbosity verbosity) {
  constexpr const char* names[] = {"", "dispatch", "plan", "profile"};  // in the order of Verbosity
  return names[static_cast<size_t>(verbosity)];
}

Verbosity parse_verbosity(std::string_view name) {
  for (const Verbosity verbosity :
       {Verbosity::silent, Verbosity::dispatch, Verbosity::plan, Verbosity::profile}) {
    if (name == to_string(verbosity)) return verbosity;
  }
  throw std::invalid_argument("verbosity must be empty or one of dispatch, plan, profile, got '" +
                              std::string(name) + "'");
}

void Config::leave(int64_t context) {
  bool found = isa_cap.leave(context);
  for (auto& passes : forced_) {
    for (Forced& forced : passes) found |= forced.leave(context);
  }
  if (!found) {
    throw std::invalid_argument("context must be one that was entered and not left, got " +
                                std::to_string(context));
  }
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
