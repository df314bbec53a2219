// Notices that a model has got other weights or parts.
#pragma once

#include <pybind11/pybind11.h>

namespace convkern::torch_binding {

void define_watch(pybind11::module_& m);

}  // namespace convkern::torch_binding
