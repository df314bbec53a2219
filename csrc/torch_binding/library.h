// libconvkern's C interface for C++: errors as exceptions, plans that free themselves, its lock.
#pragma once

#include <mutex>
#include <new>
#include <stdexcept>

#include "convkern.h"

namespace convkern::torch_binding {

// Throws what the status stands for.
inline void check(convkern_status status) {
  switch (status) {
    case CONVKERN_OK:
      return;
    case CONVKERN_INVALID:
      throw std::invalid_argument(convkern_last_error());
    case CONVKERN_OUT_OF_MEMORY:
      throw std::bad_alloc();
    case CONVKERN_FAILED:
      break;
  }
  throw std::runtime_error(convkern_last_error());
}

// A plan that is freed with the object.
struct OwnedPlan : convkern_plan {
  OwnedPlan() : convkern_plan{} {}
  ~OwnedPlan() { convkern_free_plan(this); }
  OwnedPlan(const OwnedPlan&) = delete;
  OwnedPlan& operator=(const OwnedPlan&) = delete;
};

// The library's lock, for std::lock_guard.
struct LibraryMutex {
  void lock() { convkern_lock(); }
  void unlock() { convkern_unlock(); }
};

}  // namespace convkern::torch_binding
