// The lock that guards the state of the whole process: settings, packed weights, and the list of
// warnings already given.
#pragma once

#include <mutex>

namespace convkern {

// The one mutex for all of this state. It is held for a few instructions at a time, and never while
// a kernel, Python or torch's allocator runs. A fork waits for it, so that a child never finds it
// locked by a thread that the child does not have.
std::mutex& process_mutex();

using ProcessLock = std::lock_guard<std::mutex>;

}  // namespace convkern
