// torch_binding/program.h for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace convkern::torch_binding {

void define_program(pybind11::module_& m);

}  // namespace convkern::torch_binding
