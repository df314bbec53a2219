// Wraps libconvkern's C interface for C++: errors become exceptions, plans free themselves, and the
// lock becomes a mutex.
#pragma once

#include <mutex>
#include <new>
#include <stdexcept>

#include "convkern.h"

namespace convkern::torch_binding {

// Throws the exception that belongs to the status.
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

// A plan that is freed when the object is destroyed.
struct OwnedPlan : convkern_plan {
  OwnedPlan() : convkern_plan{} {}
  ~OwnedPlan() { convkern_free_plan(this); }
  OwnedPlan(const OwnedPlan&) = delete;
  OwnedPlan& operator=(const OwnedPlan&) = delete;
};

// The library's lock, in the form that std::lock_guard needs.
struct LibraryMutex {
  void lock() { convkern_lock(); }
  void unlock() { convkern_unlock(); }
};

}  // namespace convkern::torch_binding
