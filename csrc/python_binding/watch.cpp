#include "python_binding/watch.h"

#include <pybind11/stl.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;

namespace convkern::torch_binding {
namespace {

// The tables of a model's modules (their parameters, buffers and parts) as they were, and the
// versions of the tensors in them. A model has hundreds of these. Looking at all of them takes some
// microseconds here, and a large part of the time of a small model in Python.
class Watch {
 public:
  Watch(const std::vector<py::dict>& tables, const std::vector<at::Tensor>& others) {
    for (const at::Tensor& t : others) tensors_.push_back({t, data_of(t), version_of(t)});
    for (const py::dict& table : tables) {
      tables_.push_back({table, PyDict_Size(table.ptr())});
      for (const auto& [name, value] : table) {
        entries_.push_back({table.ptr(), py::reinterpret_borrow<py::object>(name),
                            py::reinterpret_borrow<py::object>(value)});
        if (!THPVariable_Check(value.ptr())) continue;
        const at::Tensor& t = THPVariable_Unpack(value.ptr());
        tensors_.push_back({t, data_of(t), version_of(t)});
      }
    }
  }

  bool has_changed() const {
    for (const Versioned& v : tensors_) {
      if (data_of(v.tensor) != v.data || version_of(v.tensor) != v.version) return true;
    }
    for (const Table& table : tables_) {
      if (PyDict_Size(table.dict.ptr()) != table.size) return true;
    }
    for (const Entry& entry : entries_) {
      if (PyDict_GetItem(entry.table, entry.name.ptr()) != entry.value.ptr()) return true;
    }
    return false;
  }

 private:
  struct Table {
    py::dict dict;
    Py_ssize_t size;
  };
  struct Entry {
    PyObject* table;  // which tables_ holds
    py::object name, value;
  };
  struct Versioned {
    at::Tensor tensor;
    const void* data;
    uint32_t version;
  };

  static const void* data_of(const at::Tensor& t) {
    return t.has_storage() ? t.storage().data() : nullptr;
  }
  // Tensors that were made in inference mode have no version.
  static uint32_t version_of(const at::Tensor& t) {
    return t.is_inference() ? 0 : static_cast<uint32_t>(t._version());
  }

  std::vector<Table> tables_;
  std::vector<Entry> entries_;
  std::vector<Versioned> tensors_;
};

}  // namespace

void define_watch(py::module_& m) {
  py::class_<Watch>(m, "Watch", "Notices that the tables of a model's modules, or tensors, change.")
      .def(py::init<const std::vector<py::dict>&, const std::vector<at::Tensor>&>(),
           py::arg("tables"), py::arg("tensors"))
      .def("has_changed", &Watch::has_changed);
}

}  // namespace convkern::torch_binding
