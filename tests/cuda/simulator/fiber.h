// Fibers have their own stacks, and one thread switches between them. Sanitizers are told of each
// switch.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <stdexcept>

#if !defined(__x86_64__)
#error "the simulator switches stacks on x86-64 only"
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// TSan must not take the scheduler's own accesses for the kernel's.
#define CONVKERN_NOT_TSAN __attribute__((no_sanitize("thread"), noinline))
extern "C" void AnnotateIgnoreReadsBegin(const char*, int);
extern "C" void AnnotateIgnoreReadsEnd(const char*, int);
extern "C" void AnnotateIgnoreWritesBegin(const char*, int);
extern "C" void AnnotateIgnoreWritesEnd(const char*, int);
#else
#define CONVKERN_NOT_TSAN __attribute__((noinline))
#endif

namespace simulator {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

struct Fiber {
  void* stack_pointer = nullptr;
  const void* stack = nullptr;  // lowest address of the stack
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's fake stack
  void* tsan = nullptr;
};

class FiberStacks {
 public:
  explicit FiberStacks(size_t count) : bytes_(count * kStackBytes) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block");
  }
  ~FiberStacks() { munmap(memory_, bytes_); }
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  char* of(size_t index) const { return static_cast<char*>(memory_) + index * kStackBytes; }

 private:
  size_t bytes_;
  void* memory_;
};

// Saves the registers that a function call keeps, and continues where `load` was saved.
extern "C" void convkern_switch_stack(void** save, void* load);

#if defined(__SANITIZE_THREAD__)
inline void begin_launch(Fiber& scheduler) {
  scheduler.tsan = __tsan_get_current_fiber();
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
inline void end_launch() {
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}
inline void create_fiber(Fiber& fiber) { fiber.tsan = __tsan_create_fiber(0); }
inline void destroy_fiber(Fiber& fiber) { __tsan_destroy_fiber(fiber.tsan); }
inline void release_order(void* of) { __tsan_release(of); }
inline void acquire_order(void* of) { __tsan_acquire(of); }
#else
inline void begin_launch(Fiber&) {}
inline void end_launch() {}
inline void create_fiber(Fiber&) {}
inline void destroy_fiber(Fiber&) {}
inline void release_order(void*) {}
inline void acquire_order(void*) {}
#endif

// Prepares `fiber` to begin with `entry`, which must not return, on a stack of kStackBytes.
inline void start_fiber(Fiber& fiber, char* stack, void (*entry)()) {
  fiber.stack = stack;
  fiber.stack_bytes = kStackBytes;
#if defined(__SANITIZE_ADDRESS__)
  // A failed launch may have left poisoned memory on the stack.
  __asan_unpoison_memory_region(stack, kStackBytes);
#endif
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  top[-2] = reinterpret_cast<void*>(entry);  // the return address, with six registers below it
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  fiber.stack_pointer = top - 8;
}

CONVKERN_NOT_TSAN inline void switch_fiber(Fiber& from, Fiber& to, bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
  static_cast<void>(last);
  convkern_switch_stack(&from.stack_pointer, to.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// Must be the first call in a fiber. It learns where the stack of the previous fiber is.
CONVKERN_NOT_TSAN inline void begin_fiber(Fiber& scheduler) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.stack_bytes);
#endif
  static_cast<void>(scheduler);
}

[[noreturn]] CONVKERN_NOT_TSAN inline void end_fiber(Fiber& fiber, Fiber& scheduler) {
  switch_fiber(fiber, scheduler, /*last=*/true);
  __builtin_unreachable();
}

// Memory that ASan lets nobody access.
class Poisoned {
 public:
  Poisoned(void* at, size_t bytes) : at_(at), bytes_(bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(at_, bytes_);
#endif
  }
  ~Poisoned() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(at_, bytes_);
#endif
  }
  Poisoned(const Poisoned&) = delete;
  Poisoned& operator=(const Poisoned&) = delete;

 private:
  void* at_;
  size_t bytes_;
};

}  // namespace simulator
