// From exceptions to the status and text of the C interface.
#pragma once

#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "convkern.h"

namespace convkern::library {

// The text that convkern_last_error() gives, of this thread.
inline std::string& last_error() {
  thread_local std::string text;
  return text;
}

// Calls `work`, and keeps what it throws from leaving the library.
template <class Work>
convkern_status guarded(const Work& work) noexcept {
  try {
    work();
    return CONVKERN_OK;
  } catch (const std::invalid_argument& error) {
    last_error() = error.what();
    return CONVKERN_INVALID;
  } catch (const std::bad_alloc&) {
    last_error() = "out of memory";
    return CONVKERN_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    last_error() = error.what();
  } catch (...) {
    last_error() = "an exception of unknown type";
  }
  return CONVKERN_FAILED;
}

}  // namespace convkern::library
