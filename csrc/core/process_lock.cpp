#include "core/process_lock.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace convkern {
namespace {

std::mutex& instance() {
  static auto* mutex = new std::mutex;  // leaked: threads may outlive static destructors
  return *mutex;
}

}  // namespace

std::mutex& process_mutex() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(
      [] { instance().lock(); }, [] { instance().unlock(); }, [] { instance().unlock(); });
  static_cast<void>(registered);
#endif
  return instance();
}

}  // namespace convkern
