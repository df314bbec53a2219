// Registers the ops with torch's dispatcher when the module is initialised. TORCH_LIBRARY would do
// it when the library is loaded. There an exception ends the process, while here it becomes an
// ImportError.
#pragma once

#include <torch/library.h>

namespace convkern::torch_binding {

class Registration {
 public:
  using Fill = void (*)(torch::Library&);

  // Defines the ops of the namespace. A process may do this once.
  explicit Registration(Fill fill) : library_(torch::Library::DEF, "convkern", {}, "convkern", 0) {
    fill(library_);
  }
  // Registers the implementations for one dispatch key.
  Registration(c10::DispatchKey key, Fill fill)
      : library_(torch::Library::IMPL, "convkern", key, "convkern", 0) {
    fill(library_);
  }

 private:
  torch::Library library_;
};

// Each file registers its part. They must be called in this order.
void register_ops();
void register_cuda_ops();  // only if there are CUDA kernels
void register_autograd();
void register_autocast();

}  // namespace convkern::torch_binding
