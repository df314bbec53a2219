// Registers the ops with torch's dispatcher when the module is initialised, rather than when the
// library is loaded as TORCH_LIBRARY does: an exception then is an ImportError, and before that the
// end of the process.
#pragma once

#include <torch/library.h>

namespace convkern::torch_binding {

class Registration {
 public:
  using Fill = void (*)(torch::Library&);

  // The definitions of the namespace, of which a process has one.
  explicit Registration(Fill fill) : library_(torch::Library::DEF, "convkern", {}, "convkern", 0) {
    fill(library_);
  }
  // Implementations for a dispatch key.
  Registration(c10::DispatchKey key, Fill fill)
      : library_(torch::Library::IMPL, "convkern", key, "convkern", 0) {
    fill(library_);
  }

 private:
  torch::Library library_;
};

// Each file's part, in the order in which they must be called.
void register_ops();
void register_cuda_ops();  // only where there are kernels
void register_autograd();
void register_autocast();

}  // namespace convkern::torch_binding
