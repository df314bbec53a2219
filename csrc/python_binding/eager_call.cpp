// The short road from convkern.conv2d to the op: Python arguments are read as they are, without
// the schema matching and boxing of torch.ops, which take longer than a small convolution.
#include "python_binding/eager_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <array>

#include "torch_binding/op_handles.h"

namespace py = pybind11;

namespace convkern::torch_binding {
namespace {

using Pair = std::array<int64_t, 2>;

bool read_int(PyObject* object, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  int overflow = 0;
  value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 && c10::SymInt::check_range(value);
}

// One int, or a tuple or list of two.
bool read_pair(PyObject* object, Pair& pair) {
  if (read_int(object, pair[0])) {
    pair[1] = pair[0];
    return true;
  }
  if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) return false;
  PyObject* const* items = PySequence_Fast_ITEMS(object);
  return PySequence_Fast_GET_SIZE(object) == 2 && read_int(items[0], pair[0]) &&
         read_int(items[1], pair[1]);
}

// The numbers of the op's padding: those of a pair, or top, bottom, left and right of a pair of
// pairs.
struct Padding {
  std::array<int64_t, 4> values;
  size_t count = 2;
  c10::SymIntArrayRef ints() const {
    return c10::fromIntArrayRefUnchecked(c10::IntArrayRef(values.data(), count));
  }
};

bool read_padding(PyObject* object, Padding& padding) {
  Pair rows, columns;
  if (read_pair(object, rows)) {
    std::copy(rows.begin(), rows.end(), padding.values.begin());
    return true;
  }
  if (!PyTuple_CheckExact(object) && !PyList_CheckExact(object)) return false;
  PyObject* const* items = PySequence_Fast_ITEMS(object);
  if (PySequence_Fast_GET_SIZE(object) != 2 || PyLong_CheckExact(items[0]) ||
      PyLong_CheckExact(items[1]) || !read_pair(items[0], rows) || !read_pair(items[1], columns)) {
    return false;
  }
  padding = {{rows[0], rows[1], columns[0], columns[1]}, 4};
  return true;
}

// None or a string.
bool read_name(PyObject* object, std::optional<std::string_view>& name) {
  if (object == Py_None) return true;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(object, &size);
  if (text != nullptr) name = std::string_view(text, static_cast<size_t>(size));
  return text != nullptr;
}

// A plain tensor or parameter, no other subclass.
const at::Tensor* read_tensor(PyObject* object) {
  return THPVariable_CheckExact(object) ? &THPVariable_Unpack(object) : nullptr;
}

// Neither sparse, quantised nor in oneDNN's own layout.
bool is_dense(const at::Tensor& t) { return t.layout() == at::kStrided && !t.is_quantized(); }

bool has_kernels(const at::Tensor& t) {
  switch (t.scalar_type()) {
    case at::kFloat:
    case at::kDouble:
    case at::kBFloat16:
    case at::kHalf:
      return t.is_cpu() || t.is_cuda() || t.is_meta();
    default:
      return false;
  }
}

}  // namespace

PyObject* eager_conv2d(PyObject*, PyObject* const* args, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_INTERNAL_ASSERT(count == 10);
  const at::Tensor* x = read_tensor(args[0]);
  const at::Tensor* w = read_tensor(args[1]);
  const at::Tensor* b = read_tensor(args[2]);
  Pair stride, dilation;
  Padding padding;
  int64_t groups;
  std::optional<std::string_view> activation, padding_mode;
  const at::Tensor* residual = read_tensor(args[8]);
  const bool readable = x != nullptr && w != nullptr && (b != nullptr || args[2] == Py_None) &&
                        read_pair(args[3], stride) && read_padding(args[4], padding) &&
                        read_pair(args[5], dilation) && read_int(args[6], groups) &&
                        read_name(args[7], activation) && args[9] != Py_None &&
                        read_name(args[9], padding_mode) &&
                        (residual != nullptr || args[8] == Py_None);
  if (!readable || (x->dim() != 4 && x->dim() != 3) || !has_kernels(*x) || !is_dense(*x) ||
      !is_dense(*w) || (b != nullptr && !is_dense(*b)) ||
      (residual != nullptr && !is_dense(*residual)) || torch::jit::tracer::isTracing() ||
      at::impl::torch_function_mode_enabled()) {
    PyErr_Clear();
    Py_RETURN_NONE;
  }
  const at::Tensor y = [&] {
    const py::gil_scoped_release no_gil;
    const bool has_batch = x->dim() == 4;
    const auto batched = [&](const at::Tensor& t) { return has_batch ? t : t.unsqueeze(0); };
    std::optional<at::Tensor> added;
    if (residual != nullptr) added = batched(*residual);
    const at::Tensor images = forward_op().call(
        batched(*x), *w, b == nullptr ? std::nullopt : std::make_optional(*b),
        c10::fromIntArrayRefUnchecked(stride), padding.ints(),
        c10::fromIntArrayRefUnchecked(dilation), groups, activation, added, *padding_mode);
    return has_batch ? images : images.squeeze(0);
  }();
  return THPVariable_Wrap(y);
  END_HANDLE_TH_ERRORS
}

}  // namespace convkern::torch_binding
