// The C interface's functions of problems.
#include "library/problems.h"

#include <cstring>

#include "core/copy_geometry.h"
#include "core/geometry_rules.h"
#include "library/status.h"

namespace convkern::library {
namespace {

void set_activation(const Activation& activation, convkern_problem& c) {
  c.activation = static_cast<uint8_t>(activation.kind);
  c.activation_parameters[0] = activation.parameters[0];
  c.activation_parameters[1] = activation.parameters[1];
}

}  // namespace

Problem from_c(const convkern_problem& c) {
  Problem p;
  copy_geometry(c, p);
  p.pass = static_cast<Pass>(c.pass);
  p.dtype = static_cast<DType>(c.dtype);
  p.layout = static_cast<Layout>(c.layout);
  p.bias = c.bias != 0;
  p.residual = c.residual != 0;
  p.activation = {static_cast<ActivationKind>(c.activation),
                  {c.activation_parameters[0], c.activation_parameters[1]}};
  return p;
}

convkern_problem to_c(const Problem& p) {
  convkern_problem c{};
  copy_geometry(p, c);
  c.pass = static_cast<uint8_t>(p.pass);
  c.dtype = static_cast<uint8_t>(p.dtype);
  c.layout = static_cast<uint8_t>(p.layout);
  c.bias = p.bias;
  c.residual = p.residual;
  set_activation(p.activation, c);
  return c;
}

}  // namespace convkern::library

using namespace convkern;
using namespace convkern::library;

extern "C" {

convkern_status convkern_parse_problem(const char* text, convkern_problem* problem) {
  return guarded([&] { *problem = to_c(parse_problem(text)); });
}

void convkern_problem_text(const convkern_problem* problem, char* buffer) {
  const std::string text = to_string(from_c(*problem));
  std::memcpy(buffer, text.c_str(), text.size() + 1);
}

convkern_status convkern_parse_activation(const char* text, convkern_problem* problem) {
  return guarded([&] { set_activation(parse_activation(text), *problem); });
}

convkern_status convkern_parse_padding_mode(const char* text, convkern_problem* problem) {
  return guarded([&] { problem->padding_mode = static_cast<uint8_t>(parse_padding_mode(text)); });
}

convkern_status convkern_check_problem(convkern_problem* problem) {
  return guarded([&] {
    Problem checked = from_c(*problem);
    static_cast<Geometry<int64_t>&>(checked) = with_idle_steps_bounded(checked);
    std::string rule = overflowing_size(checked);
    if (rule.empty()) rule = broken_rule(checked);
    if (!rule.empty()) throw std::invalid_argument(rule);
    *problem = to_c(checked);
  });
}

convkern_problem_facts convkern_facts(const convkern_problem* problem) {
  const Problem p = from_c(*problem);
  return {to_string(p.pass),
          to_string(p.dtype),
          to_string(p.layout),
          to_string(p.padding_mode),
          p.OH(),
          p.OW(),
          p.flops(),
          p.real_flops(),
          p.min_bytes()};
}

}  // extern "C"
