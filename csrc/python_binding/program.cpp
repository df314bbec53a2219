#include "python_binding/program.h"

#include <ATen/ScalarOps.h>
#include <pybind11/stl.h>
#include <torch/csrc/jit/python/pybind_utils.h>
#include <torch/csrc/utils/pybind.h>

#include "torch_binding/program.h"

namespace py = pybind11;

namespace convkern::torch_binding {
namespace {

using Slots = std::vector<int64_t>;

Place place_of(int64_t slot, const at::Tensor& like, int64_t offset) {
  return {slot, like.sizes().vec(), like.strides().vec(), like.scalar_type(), offset};
}

// Reads an argument as Python gives it: ("value", v), ("slot", i) or ("slots", [i, ...]),
// where -1 stands for None.
OpArgument argument_of(const py::tuple& given, const c10::TypePtr& type) {
  const auto kind = given[0].cast<std::string>();
  if (kind == "slot") return {{}, {given[1].cast<int64_t>()}, OpArgument::kTensor};
  if (kind == "slots") return {{}, given[1].cast<Slots>(), OpArgument::kTensors};
  if (type->kind() == c10::TypeKind::TensorType && !THPVariable_Check(given[1].ptr()) &&
      !given[1].is_none()) {
    // A number in the place of a tensor takes part in type promotion as a number.
    const auto number = torch::jit::toIValue(given[1], c10::NumberType::get()).toScalar();
    at::Tensor wrapped = at::scalar_to_tensor(number);
    wrapped.unsafeGetTensorImpl()->set_wrapped_number(true);
    return {wrapped, {}, OpArgument::kConstant};
  }
  return {torch::jit::toIValue(given[1], type), {}, OpArgument::kConstant};
}

void add_op(Program& program, const std::string& name, const std::string& overload,
            const py::list& arguments, Slots results, bool is_small,
            const std::optional<at::Tensor>& like, int64_t offset, int64_t split, Slots dead) {
  OpStep step{c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str()),
              {},
              std::move(results),
              false,
              is_small};
  const c10::FunctionSchema& schema = step.op.schema();
  const size_t count = schema.arguments().size() - (like.has_value() ? 1 : 0);
  TORCH_CHECK_VALUE(arguments.size() == count, name, ": expected ", count, " arguments, got ",
                    arguments.size());
  if (like.has_value()) {
    step.out = place_of(step.results[0], *like, offset);
    step.split = split;
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    step.arguments.push_back(argument_of(arguments[i], schema.arguments()[i].type()));
  }
  step.returns_list =
      schema.returns().size() == 1 && schema.returns()[0].type()->kind() == c10::TypeKind::ListType;
  program.add(std::move(step), std::move(dead));
}

}  // namespace

void define_program(py::module_& m) {
  py::class_<Pass, std::shared_ptr<Pass>>(m, "Pass", "See torch_binding/passes.h.");
  m.def("pick_channels",
        [](const Slots& widths, const Slots& index, const std::optional<at::Tensor>& scale,
           const std::optional<at::Tensor>& shift, bool relu) {
          return pick_channels(widths, index, scale.value_or(at::Tensor()),
                               shift.value_or(at::Tensor()), relu);
        });
  m.def("scale_channels", scale_channels);
  m.def("mean_of_pixels", mean_of_pixels);
  m.def("max_of_windows", max_of_windows);
  py::class_<Program>(m, "Program", "A model for inference; see torch_binding/program.h.")
      .def(py::init<int64_t, int64_t, int>(), py::arg("slots"), py::arg("arena_bytes"),
           py::arg("threads"))
      .def("set_constant", &Program::set_constant)
      .def("set_inputs", &Program::set_inputs)
      .def("set_outputs",
           [](Program& self, const std::vector<std::tuple<int64_t, at::Tensor, bool>>& outputs) {
             std::vector<Place> places;
             for (const auto& [slot, like, direct] : outputs) {
               places.push_back(place_of(slot, like, direct ? 0 : -1));
             }
             self.set_outputs(std::move(places));
           })
      .def("add_convolution",
           [](Program& self, const convkern_problem& problem, int64_t x, int64_t residual,
              int64_t y, const at::Tensor& like, int64_t offset, const at::Tensor& weight,
              const std::optional<at::Tensor>& bias, bool of_pixels, Slots dead) {
             self.add(ConvolutionStep{problem, x, residual, place_of(y, like, offset), weight,
                                      bias.value_or(at::Tensor()), of_pixels},
                      std::move(dead));
           })
      .def("add_pass",
           [](Program& self, std::shared_ptr<const Pass> pass, Slots inputs, int64_t y,
              const at::Tensor& like, int64_t offset, Slots dead) {
             self.add(PassStep{std::move(pass), std::move(inputs), place_of(y, like, offset)},
                      std::move(dead));
           })
      .def("add_op", add_op)
      .def("run", &Program::run, py::call_guard<py::gil_scoped_release>())
      .def("kernels", &Program::kernels)
      .def("memory", &Program::memory);
}

}  // namespace convkern::torch_binding
