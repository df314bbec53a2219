#pragma once

#include <torch/csrc/utils/pybind.h>

namespace convkern::torch_binding {

// conv2d(input, weight, bias, stride, padding, dilation, groups, activation, residual), all
// positional: the result, or None where the arguments need the general road (functional.py).
PyObject* eager_conv2d(PyObject* module, PyObject* const* args, Py_ssize_t count);

}  // namespace convkern::torch_binding
