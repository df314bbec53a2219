// convkern._C: problems, kernel lists, plans, configuration and build facts for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <mutex>
#include <set>
#include <thread>

#include "core/copy_geometry.h"
#include "python_binding/eager_call.h"
#include "python_binding/program.h"
#include "python_binding/watch.h"
#include "torch_binding/batch_norm.h"
#include "torch_binding/checks.h"
#include "torch_binding/execute.h"
#include "torch_binding/executors.h"
#include "torch_binding/library.h"
#include "torch_binding/registration.h"
#include "torch_binding/channel_product.h"
#include "torch_binding/torch_versions.h"
#include "torch_binding/weight_cache.h"

namespace py = pybind11;

namespace convkern::torch_binding {
namespace {

// The device of that name; a build may have no kernels for it.
convkern_device parse_device(const std::string& name) {
  if (name == "cpu") return CONVKERN_CPU;
  if (name == "cuda") return CONVKERN_CUDA;
  throw std::invalid_argument("device must be cpu or cuda, got '" + name + "'");
}

std::string text_of(const convkern_problem& problem) {
  char text[CONVKERN_PROBLEM_TEXT];
  convkern_problem_text(&problem, text);
  return text;
}

convkern_problem with_activation(const std::string& text) {
  if (text.find('\0') != std::string::npos) {
    throw py::value_error("activation must have no zero character, got activation='" +
                          std::string(text.c_str()) + "\\0...'");
  }
  convkern_problem problem{};
  check(convkern_parse_activation(text.c_str(), &problem));
  return problem;
}

// The activation of a problem as text, which ends the problem's own text; None without one.
py::object activation_of(const convkern_problem& problem) {
  if (problem.activation == CONVKERN_NO_ACTIVATION) return py::none();
  const std::string text = text_of(problem);
  return py::str(text.substr(text.rfind('+') + 1));
}

// A value of convkern_get, which has all that are asked for here.
std::string get(const char* name) { return convkern_get(name); }

py::list kernels() {
  py::list list;
  convkern_kernel_row kernel;
  for (size_t i = 0; convkern_kernel_at(i, &kernel); ++i) {
    py::dict row;
    row["name"] = kernel.name;
    row["pass_"] = kernel.pass;
    row["algorithm"] = kernel.algorithm;
    row["dtype"] = kernel.dtype;
    row["device"] = kernel.device;
    row["isa"] = kernel.isa;
    row["deterministic"] = kernel.deterministic != 0;
    row["precision"] = kernel.precision;
    list.append(row);
  }
  return list;
}

py::dict plan(const convkern_problem& problem, const std::string& device_name) {
  const convkern_request request = request_for(parse_device(device_name), at::get_num_threads());
  OwnedPlan plan;
  py::list rejected;
  check(convkern_explain(
      &problem, &request,
      [](void* list, const char* kernel, const char* reason) {
        static_cast<py::list*>(list)->append(py::make_tuple(kernel, reason));
      },
      &rejected, &plan));
  py::dict result;
  result["kernel"] = plan.kernel_name;
  result["forced"] = plan.forced != 0;
  result["reference"] = plan.reference != 0;
  result["rejected"] = rejected;
  result["workspace_bytes"] = plan.workspace_bytes;
  return result;
}

py::object last_execution_of_thread() {
  const Execution last = take_last_execution();
  if (last.kernel == nullptr) return py::none();
  return py::make_tuple(text_of(last.problem), last.kernel);
}

// The context that the function entered for the name.
int64_t entered(convkern_status (*enter)(const char*, int64_t*), const std::string& name) {
  int64_t context = 0;
  check(enter(name.c_str(), &context));
  return context;
}

void configure_from_environment() {
  check(convkern_configure_from_environment());
  const char* keep = std::getenv("CONVKERN_WEIGHT_CACHE");
  set_weight_cache(keep != nullptr && std::string(keep) == "1");
}

std::pair<double, double> measure_peak(const std::string& isa) {
  double flops = 0, bandwidth = 0;
  check(convkern_measure_peak(TorchExecutor(), isa.c_str(), &flops, &bandwidth));
  return {flops, bandwidth};
}

// How many of torch's threads take part in a parallel region of this binding.
int threads_at_work() {
  const TorchExecutor executor;
  std::mutex mutex;
  std::set<std::thread::id> seen;
  executor.run(executor.threads(), 1, [&](int64_t, int64_t, int) {
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  return static_cast<int>(seen.size());
}

// The library of CUDA kernels, whose ops are registered with it. Nothing is loaded for a torch that
// does not tell the streams to run on.
void load_cuda(const std::string& path) {
  if (!kHasStreamHandles<>) return;
  check(convkern_load_cuda(path.c_str()));
  register_cuda_ops();
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = get("compiler");
  info["torch"] = CONVKERN_TORCH_VERSION;
  const std::string cuda = get("cuda");
  if (cuda.empty()) {
    info["cuda"] = py::none();
  } else {
    info["cuda"] = cuda;
  }
  return info;
}

// Problems are made from their text in __new__, so that there are none that were never initialised:
// pybind11 makes them in __init__, before which their methods would read what is not there.
PyObject* new_problem(PyTypeObject*, PyObject* args, PyObject* kwargs) {
  const char* text = nullptr;
  static const char* names[] = {"text", nullptr};
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s:Problem", const_cast<char**>(names), &text)) {
    return nullptr;
  }
  try {
    convkern_problem problem{};
    check(convkern_parse_problem(text, &problem));
    return py::cast(problem).release().ptr();
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

void construct_in_new(PyHeapTypeObject* type) { type->ht_type.tp_new = new_problem; }

// One pass over one geometry.
void define_problem(py::module_& m) {
  using P = convkern_problem;
  py::class_<P>(m, "Problem", "One pass over one geometry; see core/problem.h",
                py::custom_type_setup(construct_in_new), py::is_final())
      .def("__init__", [](const py::args&, const py::kwargs&) {})
      .def("__str__", text_of)
      .def("__repr__", [](const P& p) { return "Problem('" + text_of(p) + "')"; })
      .def(
          "__eq__", [](const P& a, const P& b) { return text_of(a) == text_of(b); },
          py::is_operator())
      .def("__reduce__",
           [](const py::object& p) {
             return py::make_tuple(py::type::of(p), py::make_tuple(py::str(p)));
           })
      .def("__hash__", [](const P& p) { return std::hash<std::string>()(text_of(p)); })
      .def_property_readonly("pass_", [](const P& p) { return convkern_facts(&p).pass; })
      .def_property_readonly("dtype", [](const P& p) { return convkern_facts(&p).dtype; })
      .def_property_readonly("layout", [](const P& p) { return convkern_facts(&p).layout; })
      .def_property_readonly("bias", [](const P& p) { return p.bias != 0; })
      .def_property_readonly("residual", [](const P& p) { return p.residual != 0; })
      .def_property_readonly("activation", activation_of)
      .def_property_readonly("input_size",
                             [](const P& p) { return py::make_tuple(p.N, p.C, p.H, p.W); })
      .def_property_readonly("weight_size",
                             [](const P& p) { return py::make_tuple(p.O, p.Cg, p.R, p.S); })
      .def_property_readonly("output_size",
                             [](const P& p) {
                               const convkern_problem_facts facts = convkern_facts(&p);
                               Geometry<int64_t> g;
                               copy_geometry(p, g);
                               return py::make_tuple(p.N, output_channels(g), facts.OH, facts.OW);
                             })
      .def_property_readonly("stride",
                             [](const P& p) { return py::make_tuple(p.stride_h, p.stride_w); })
      .def_property_readonly("padding",
                             [](const P& p) -> py::tuple {
                               if (p.pad_h == p.pad_h_end && p.pad_w == p.pad_w_end) {
                                 return py::make_tuple(p.pad_h, p.pad_w);
                               }
                               return py::make_tuple(py::make_tuple(p.pad_h, p.pad_h_end),
                                                     py::make_tuple(p.pad_w, p.pad_w_end));
                             })
      .def_property_readonly("padding_mode",
                             [](const P& p) { return convkern_facts(&p).padding_mode; })
      .def_property_readonly("dilation",
                             [](const P& p) { return py::make_tuple(p.dilation_h, p.dilation_w); })
      .def_property_readonly("groups", [](const P& p) { return p.groups; })
      .def_property_readonly("flops", [](const P& p) { return convkern_facts(&p).flops; })
      .def_property_readonly("real_flops", [](const P& p) { return convkern_facts(&p).real_flops; })
      .def_property_readonly("min_bytes", [](const P& p) { return convkern_facts(&p).min_bytes; });
}

// torch_binding/batch_norm.h for Python; None in the place of no results.
std::optional<std::vector<at::Tensor>> batch_norm_of(
    const at::Tensor& x, const std::optional<at::Tensor>& running_mean,
    const std::optional<at::Tensor>& running_var, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, bool training, double momentum, double eps,
    const std::optional<std::string>& activation, const std::optional<at::Tensor>& residual,
    bool twice, bool recompute) {
  const auto given = [](const std::optional<at::Tensor>& t) { return t.value_or(at::Tensor()); };
  std::vector<at::Tensor> results =
      batch_norm({x, given(running_mean), given(running_var), given(weight), given(bias),
                  given(residual), training, momentum, eps, activation, twice, recompute});
  if (results.empty()) return std::nullopt;
  return results;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native part of convkern: problems, kernel lists, plans and configuration.";
  convkern_lock();  // its handlers of forks are installed before there are threads that fork
  convkern_unlock();
  register_ops();
  register_autograd();
  register_autocast();
  define_problem(m);
  define_program(m);
  define_watch(m);
  static PyMethodDef conv2d = {
      "conv2d", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(eager_conv2d)),
      METH_FASTCALL, "The short road to the op; None where functional.conv2d must take another."};
  m.add_object("conv2d", PyCFunction_New(&conv2d, nullptr));
  m.def("batch_norm_has", [](const std::string& activation, bool residual) {
    return convkern_batch_norm_has(with_activation(activation).activation, residual) != 0;
  });
  m.def("batch_norm", batch_norm_of, py::call_guard<py::gil_scoped_release>());
  m.def(
      "channel_product",
      [](const at::Tensor& x, const at::Tensor& scale) -> std::optional<at::Tensor> {
        const at::Tensor y = channel_product(x, scale);
        return y.defined() ? std::optional(y) : std::nullopt;
      },
      py::call_guard<py::gil_scoped_release>());
  m.def(
      "check_activation", [](const std::string& text) { with_activation(text); }, py::arg("text"),
      "Raises ValueError unless the text names an activation.");
  m.def("kernels", kernels, "Every kernel of this build, in order of preference.");
  m.def("plan", plan, py::arg("problem"), py::arg("device") = "cpu",
        "The kernel that would run the problem, and why not each of the others.");
  m.def("take_last_execution", last_execution_of_thread,
        "The problem string and the kernel that this thread ran last, since the last call of this "
        "function; None if it ran none.");
  m.def(
      "force_kernel", [](const std::string& name) { return entered(convkern_force_kernel, name); },
      py::arg("name"),
      "Forces the named kernel for its device and pass until the context that it returns is left.");
  m.def(
      "cap_isa", [](const std::string& isa) { return entered(convkern_cap_isa, isa); },
      py::arg("isa"));
  m.def(
      "leave", [](int64_t context) { check(convkern_leave(context)); }, py::arg("context"),
      "Takes back what force_kernel or cap_isa did when it returned this number.");
  m.def("profiling", [] { return get("verbosity") == "profile"; });
  m.def("set_roof", convkern_set_roof, py::arg("threads"), py::arg("flops"), py::arg("bandwidth"),
        "What this machine can do at most, FLOP/s and bytes/s, for the lines of `profile`.");
  m.def("measure_peak", measure_peak, py::arg("isa"), py::call_guard<py::gil_scoped_release>(),
        "What this machine does at most with torch's threads and an instruction set: FLOP/s of "
        "float32 and bytes/s, measured.");
  m.def("isa_cap", [] { return get("isa_cap"); });
  m.def("float32_precision", [] { return get("precision"); });
  m.def("set_float32_precision",
        [](const std::string& precision) { check(convkern_set("precision", precision.c_str())); });
  m.def("weight_cache", weight_cache);
  m.def("set_weight_cache", set_weight_cache);
  m.def("weight_cache_bytes", weight_cache_bytes);
  m.def("batch_invariant", [] { return get("batch_invariant") == "1"; });
  m.def("set_batch_invariant",
        [](bool required) { check(convkern_set("batch_invariant", required ? "1" : "0")); });
  m.def("available_isa", [] { return get("available_isa"); });
  m.def("threads_at_work", threads_at_work);
  m.def("cpu_features", [] { return py::str(get("cpu_features")).attr("split")(); });
  m.def("load_cuda", load_cuda, py::arg("path"));
  m.def("build_info", build_info);
  m.def("configure_from_environment", configure_from_environment);
}

}  // namespace convkern::torch_binding
