#include "core/activation.h"

#include <algorithm>
#include <locale>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

namespace convkern {
namespace {

struct Named {
  ActivationKind kind;
  const char* name;
  size_t parameters;
};
constexpr Named kActivations[] = {
    {ActivationKind::relu, "relu", 0},
    {ActivationKind::relu6, "relu6", 0},
    {ActivationKind::clamp, "clamp", 2},
    {ActivationKind::leaky_relu, "leaky_relu", 1},
    {ActivationKind::hardsigmoid, "hardsigmoid", 0},
    {ActivationKind::hardswish, "hardswish", 0},
    {ActivationKind::sigmoid, "sigmoid", 0},
    {ActivationKind::silu, "silu", 0},
    {ActivationKind::gelu, "gelu", 0},
    {ActivationKind::gelu_tanh, "gelu_tanh", 0},
};

// Parses one number with spaces around it; "inf" is one.
std::optional<double> parse_number(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  if (text == "inf" || text == "-inf") {
    const double infinity = std::numeric_limits<double>::infinity();
    return text == "inf" ? infinity : -infinity;
  }
  std::istringstream in{std::string(text)};
  in.imbue(std::locale::classic());
  double number = 0;
  if (!(in >> number) || in.peek() != std::istringstream::traits_type::eof()) return std::nullopt;
  return number;
}

std::string usage(const Named& named) {
  const char* const forms[] = {"", "(slope)", "(low,high)"};
  return named.name + std::string(forms[named.parameters]);
}

[[noreturn]] void fail(std::string_view text, const std::string& rule) {
  throw std::invalid_argument("activation must be " + rule + ", got activation='" +
                              std::string(text) + "'");
}

[[noreturn]] void fail_unknown(std::string_view text) {
  std::string names = "None";
  for (const Named& named : kActivations) {
    names += (&named == std::end(kActivations) - 1 ? " or '" : ", '") + usage(named) + "'";
  }
  fail(text, names);
}

// Returns a text of few digits that reads back as the number, in every locale. It has no '+', which
// separates the words of a problem's text.
std::string text_of(double number) {
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::string text;
  for (int digits = 6; digits <= 17; ++digits) {
    std::ostringstream out;
    out.imbue(std::locale::classic());
    out.precision(digits);
    out << number;
    text = out.str();
    if (parse_number(text) == number) break;
  }
  text.erase(std::remove(text.begin(), text.end(), '+'), text.end());
  return text;
}

// Returns the numbers of "(1,2)", or nothing if the text has another form.
std::vector<double> parse_numbers(std::string_view text) {
  std::vector<double> numbers;
  if (text.size() < 2 || text.front() != '(' || text.back() != ')') return numbers;
  text = text.substr(1, text.size() - 2);
  for (;;) {
    const size_t end = std::min(text.find(','), text.size());
    const std::optional<double> number = parse_number(text.substr(0, end));
    if (!number.has_value()) return {};
    numbers.push_back(*number);
    if (end == text.size()) return numbers;
    text.remove_prefix(end + 1);
  }
}

}  // namespace

std::string to_string(const Activation& activation) {
  for (const Named& named : kActivations) {
    if (named.kind != activation.kind) continue;
    std::string text = named.name;
    for (size_t i = 0; i < named.parameters; ++i) {
      text += (i == 0 ? "(" : ",") + text_of(activation.parameters[i]);
    }
    return named.parameters == 0 ? text : text + ")";
  }
  return "";
}

Activation parse_activation(std::string_view text) {
  const size_t name_end = std::min(text.find('('), text.size());
  for (const Named& named : kActivations) {
    if (text.substr(0, name_end) != named.name) continue;
    const std::vector<double> numbers = parse_numbers(text.substr(name_end));
    if (numbers.size() != named.parameters || (numbers.empty() && name_end < text.size())) {
      fail(text, "of the form '" + usage(named) + "'");
    }
    Activation activation;
    activation.kind = named.kind;
    for (size_t i = 0; i < numbers.size(); ++i) activation.parameters[i] = numbers[i] + 0.0;  // -0
    const double low = activation.parameters[0], high = activation.parameters[1];
    if (named.kind == ActivationKind::clamp && !(low <= high)) {
      fail(text, "'clamp(low,high)' with low <= high");
    }
    if (named.kind == ActivationKind::leaky_relu &&
        !(std::abs(low) <= std::numeric_limits<float>::max())) {
      fail(text, "'leaky_relu(slope)' with a finite slope of float32");
    }
    return activation;
  }
  fail_unknown(text);
}

}  // namespace convkern
