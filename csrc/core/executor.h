// An executor runs a kernel on its threads or on its stream. The library implements this interface
// with the threads of its caller, such as torch's pool, so that kernels do not need torch.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace convkern {

// A reference to a callable, which must outlive the call that it is passed to. Unlike std::function
// it never allocates memory.
template <class Signature>
class FunctionRef;

template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <class Callable, class = std::enable_if_t<!std::is_same_v<Callable, FunctionRef>>>
  FunctionRef(const Callable& callable)  // NOLINT: implicit, as std::function is
      : object_(std::addressof(callable)), call_([](const void* object, Args... args) -> Result {
          return (*static_cast<const Callable*>(object))(args...);
        }) {}
  Result operator()(Args... args) const { return call_(object_, args...); }

 private:
  const void* object_;
  Result (*call_)(const void*, Args...);
};

class Executor {
 public:
  // The executor calls this for the tasks [begin, end) on thread `thread` of [0, threads()).
  using Body = FunctionRef<void(int64_t begin, int64_t end, int thread)>;

  virtual ~Executor() = default;
  virtual int threads() const = 0;
  // Runs the tasks [0, count) and returns when all are done. Tasks are split into ranges of at
  // least `grain` tasks, or one range if `count` is less. Which thread runs a task must not change
  // a kernel's result.
  virtual void run(int64_t count, int64_t grain, Body body) const = 0;
  // The stream that a device kernel launches on, as the handle of that device's runtime.
  virtual void* stream() const { return nullptr; }
  // Returns when everything that was launched is done.
  virtual void wait() const {}
};

}  // namespace convkern
