// The lock of what the library keeps for the whole process: settings, packed weights, and the
// warnings that were given.
#pragma once

#include <mutex>

namespace convkern {

// One mutex for all of it, held for a few instructions at a time and never while a kernel, Python
// or torch's allocator runs. A fork waits for it, so that a child never finds it locked by a
// thread that the child does not have.
std::mutex& process_mutex();

using ProcessLock = std::lock_guard<std::mutex>;

}  // namespace convkern
