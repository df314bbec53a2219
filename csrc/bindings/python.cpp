// convkern._C: problems, kernel lists, plans, configuration and build facts for Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <ATen/Parallel.h>

#include "bindings/eager_call.h"
#include "bindings/execute.h"
#include "bindings/weight_cache.h"
#include "core/config.h"
#include "cpu/cpu_features.h"

namespace py = pybind11;

namespace convkern::bindings {
namespace {

Device parse_device(const std::string& name) {
  if (name == "cpu") return Device::cpu;
  if (name == "cuda") return Device::cuda;
  throw std::invalid_argument("device must be cpu or cuda, got '" + name + "'");
}

template <class Visit>
void for_each_kernel(const Visit& visit) {
  for (const Device device : {Device::cpu, Device::cuda}) {
    for (const Kernel& kernel : kernels_of(device)) visit(device, kernel);
  }
}

py::list kernels() {
  py::list list;
  for_each_kernel([&](Device device, const Kernel& kernel) {
    py::dict row;
    row["name"] = kernel.name;
    row["device"] = to_string(device);
    row["isa"] = to_string(kernel.isa);
    row["deterministic"] = kernel.deterministic;
    row["precision"] = to_string(kernel.precision);
    list.append(row);
  });
  return list;
}

py::dict plan(const Problem& problem, const std::string& device_name) {
  const Device device = parse_device(device_name);
  const Constraints constraints = constraints_for(device, problem.pass);
  const KernelList list = kernels_of(device);
  if (list.count == 0) {
    throw std::invalid_argument("this build has no kernels for " + device_name);
  }
  const Kernel& kernel = choose(list, problem, constraints);
  const bool forced = constraints.forced != nullptr;
  py::list rejected;
  for (const Kernel& other : list) {
    if (other.pass != problem.pass || &other == &kernel) continue;
    Reason reason = forced ? why_not(other, problem, constraints)
                           : why_passed_over(other, problem, constraints);
    if (reason == Reason::dtype) continue;
    if (reason == Reason::none) reason = forced ? Reason::not_forced : Reason::less_preferred;
    rejected.append(py::make_tuple(other.name, to_string(reason)));
  }
  py::dict result;
  result["kernel"] = kernel.name;
  result["forced"] = forced;
  result["reference"] = &kernel == &reference_kernel(list, problem.pass);
  result["rejected"] = rejected;
  result["workspace_bytes"] = kernel.workspace(problem, at::get_num_threads());
  return result;
}

// Forces the named kernel for its device and pass; returns what undo_force() needs.
py::tuple force_kernel(const std::string& name) {
  py::tuple previous;
  bool found = false;
  std::string names;
  for_each_kernel([&](Device device, const Kernel& kernel) {
    names += std::string(names.empty() ? "" : ", ") + kernel.name;
    if (name != kernel.name) return;
    found = true;
    const Kernel* old = config().forced_for(device, kernel.pass).exchange(&kernel);
    previous = py::make_tuple(static_cast<int>(device), static_cast<int>(kernel.pass),
                              old == nullptr ? "" : old->name);
  });
  if (!found) throw std::invalid_argument("no kernel is named '" + name + "'; there are " + names);
  return previous;
}

void undo_force(const py::tuple& previous) {
  const auto device = static_cast<Device>(previous[0].cast<int>());
  const auto pass = static_cast<Pass>(previous[1].cast<int>());
  const auto name = previous[2].cast<std::string>();
  config().forced_for(device, pass) = nullptr;
  if (!name.empty()) force_kernel(name);
}

void configure_from_environment() {
  const std::string isa = environment("CONVKERN_ISA");
  if (!isa.empty()) config().isa_cap = parse_isa(isa);
  const std::string precision = environment("CONVKERN_PRECISION");
  if (!precision.empty()) config().precision = parse_precision(precision);
  config().weight_cache = environment("CONVKERN_WEIGHT_CACHE") == "1";
  config().verbosity = parse_verbosity(environment("CONVKERN_VERBOSE"));
  config().strict = environment("CONVKERN_STRICT") == "1";
  std::string names = environment("CONVKERN_KERNEL");
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    force_kernel(names.substr(begin, end - begin));
    begin = end + 1;
  }
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["torch"] = CONVKERN_TORCH_VERSION;
#ifdef CONVKERN_WITH_CUDA
  info["cuda"] = CONVKERN_WITH_CUDA;
#else
  info["cuda"] = py::none();
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Native part of convkern: problems, kernel lists, plans and configuration.";
  py::class_<Problem>(m, "Problem", "One pass over one geometry; see core/problem.h")
      .def(py::init([](const std::string& text) { return parse_problem(text); }), py::arg("text"))
      .def("__str__", [](const Problem& p) { return to_string(p); })
      .def("__repr__", [](const Problem& p) { return "Problem('" + to_string(p) + "')"; })
      .def("__eq__",
           [](const Problem& a, const Problem& b) { return to_string(a) == to_string(b); })
      .def("__hash__", [](const Problem& p) { return std::hash<std::string>()(to_string(p)); })
      .def_property_readonly("pass_", [](const Problem& p) { return to_string(p.pass); })
      .def_property_readonly("dtype", [](const Problem& p) { return to_string(p.dtype); })
      .def_property_readonly("layout", [](const Problem& p) { return to_string(p.layout); })
      .def_property_readonly("bias", [](const Problem& p) { return p.bias; })
      .def_property_readonly("relu",
                             [](const Problem& p) { return p.activation == Activation::relu; })
      .def_property_readonly("input_size",
                             [](const Problem& p) { return py::make_tuple(p.N, p.C, p.H, p.W); })
      .def_property_readonly("weight_size",
                             [](const Problem& p) { return py::make_tuple(p.O, p.Cg, p.R, p.S); })
      .def_property_readonly(
          "output_size", [](const Problem& p) { return py::make_tuple(p.N, p.O, p.OH(), p.OW()); })
      .def_property_readonly(
          "stride", [](const Problem& p) { return py::make_tuple(p.stride_h, p.stride_w); })
      .def_property_readonly("padding",
                             [](const Problem& p) { return py::make_tuple(p.pad_h, p.pad_w); })
      .def_property_readonly(
          "dilation", [](const Problem& p) { return py::make_tuple(p.dilation_h, p.dilation_w); })
      .def_property_readonly("groups", [](const Problem& p) { return p.groups; })
      .def_property_readonly("flops", &Problem::flops)
      .def_property_readonly("real_flops", &Problem::real_flops)
      .def_property_readonly("min_bytes", &Problem::min_bytes);
  static PyMethodDef conv2d = {
      "conv2d", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(eager_conv2d)),
      METH_FASTCALL, "The short road to the op; None where functional.conv2d must take another."};
  m.add_object("conv2d", PyCFunction_New(&conv2d, nullptr));
  m.def("kernels", kernels, "Every kernel of this build, in order of preference.");
  m.def("plan", plan, py::arg("problem"), py::arg("device") = "cpu",
        "The kernel that would run the problem, and why not each of the others.");
  m.def("force_kernel", force_kernel, py::arg("name"));
  m.def("undo_force", undo_force, py::arg("previous"));
  m.def("profiling", [] { return config().verbosity == Verbosity::profile; });
  m.def(
      "set_roof",
      [](int threads, double flops, double bandwidth) {
        config().roof = {threads, flops, bandwidth};
      },
      py::arg("threads"), py::arg("flops"), py::arg("bandwidth"),
      "What this machine can do at most, FLOP/s and bytes/s, for the lines of `profile`.");
  m.def("isa_cap", [] { return to_string(config().isa_cap.load()); });
  m.def("set_isa_cap", [](const std::string& isa) { config().isa_cap = parse_isa(isa); });
  m.def("float32_precision", [] { return to_string(config().precision.load()); });
  m.def("set_float32_precision",
        [](const std::string& precision) { config().precision = parse_precision(precision); });
  m.def("weight_cache", [] { return config().weight_cache.load(); });
  m.def("set_weight_cache", [](bool keep) {
    config().weight_cache = keep;
    if (!keep) clear_weight_cache();
  });
  m.def("weight_cache_bytes", weight_cache_bytes);
  m.def("available_isa", [] { return to_string(cpu::available_isa()); });
  m.def("threads_at_work", threads_at_work);
  m.def("cpu_features", cpu::feature_names);
  m.def("build_info", build_info);
  m.def("configure_from_environment", configure_from_environment);
}

}  // namespace convkern::bindings
