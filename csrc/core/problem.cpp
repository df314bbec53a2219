#include "core/problem.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "core/axis.h"
#include "core/geometry_rules.h"

namespace convkern {
namespace {

struct SizeField {
  char letter;
  int64_t Geometry<int64_t>::* member;
  bool required;
  int64_t Geometry<int64_t>::* end = nullptr;  // the member for "-" and a number after it
};

using G = Geometry<int64_t>;
constexpr SizeField kSizeFields[] = {
    {'n', &G::N, true},
    {'c', &G::C, true},
    {'h', &G::H, true},
    {'w', &G::W, true},
    {'k', &G::O, true},
    {'r', &G::R, true},
    {'s', &G::S, true},
    {'p', &G::pad_h, false, &G::pad_h_end},
    {'q', &G::pad_w, false, &G::pad_w_end},
    {'u', &G::stride_h, false},
    {'v', &G::stride_w, false},
    {'d', &G::dilation_h, false},
    {'e', &G::dilation_w, false},
    {'g', &G::groups, false},
};

template <class Enum>
struct Named {
  Enum value;
  const char* name;
};
constexpr Named<Pass> kPasses[] = {
    {Pass::forward, "fwd"}, {Pass::grad_input, "gx"}, {Pass::grad_weight, "gw"}};
constexpr Named<DType> kDTypes[] = {
    {DType::f32, "f32"}, {DType::f64, "f64"}, {DType::bf16, "bf16"}, {DType::f16, "f16"}};
constexpr Named<Layout> kLayouts[] = {{Layout::nchw, "nchw"}, {Layout::nhwc, "nhwc"}};
constexpr Named<PaddingMode> kPaddingModes[] = {{PaddingMode::zeros, "zeros"},
                                                {PaddingMode::reflect, "reflect"},
                                                {PaddingMode::replicate, "replicate"},
                                                {PaddingMode::circular, "circular"}};

template <class Enum, size_t n>
const char* name_of(const Named<Enum> (&table)[n], Enum value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return "?";
}

[[noreturn]] void fail(std::string_view text, const std::string& rule) {
  throw std::invalid_argument("problem string '" + std::string(text) + "': " + rule);
}

template <class Enum, size_t n>
Enum value_of(const Named<Enum> (&table)[n], std::string_view name, std::string_view what,
              std::string_view text) {
  std::string choices;
  for (const auto& entry : table) {
    if (name == entry.name) return entry.value;
    choices += choices.empty() ? entry.name : std::string(", ") + entry.name;
  }
  fail(text,
       std::string(what) + " must be one of " + choices + ", got '" + std::string(name) + "'");
}

// Splits the text into at most so many parts. The last part may contain the separator.
std::vector<std::string_view> split(std::string_view text, char separator, size_t most) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = parts.size() + 1 < most ? text.find(separator) : std::string_view::npos;
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// Parses the decimal number at the front of the sizes and removes it and the character before it.
int64_t parse_number(std::string_view& sizes, char letter, std::string_view text) {
  const std::string name = std::string("size '") + letter + "'";
  sizes.remove_prefix(1);
  int64_t number = 0;
  const char* end = sizes.data() + sizes.size();
  const auto [rest, error] = std::from_chars(sizes.data(), end, number);
  if (error == std::errc::result_out_of_range) fail(text, name + " does not fit int64");
  if (error != std::errc() || sizes.front() == '-') {
    fail(text, name + " must be followed by a decimal number");
  }
  sizes.remove_prefix(static_cast<size_t>(rest - sizes.data()));
  return number;
}

void parse_sizes(std::string_view sizes, std::string_view text, Problem& problem) {
  for (const SizeField& field : kSizeFields) {
    const std::string letter(1, field.letter);
    if (sizes.empty() || sizes.front() != field.letter) {
      if (field.required) fail(text, "size '" + letter + "' is missing or out of order");
      continue;
    }
    problem.*field.member = parse_number(sizes, field.letter, text);
    if (field.end == nullptr) continue;
    problem.*field.end = !sizes.empty() && sizes.front() == '-'
                             ? parse_number(sizes, field.letter, text)
                             : problem.*field.member;
  }
  if (!sizes.empty()) fail(text, "unexpected '" + std::string(sizes) + "' after the sizes");
}

}  // namespace

double Problem::flops() const {
  double product = 2.0;
  for (const int64_t extent : {N, O, OH(), OW(), Cg, R, S}) product *= static_cast<double>(extent);
  return product;
}

namespace {

// Returns the sum over i in [0, count) of floor((a + b * i) / m), for a, b >= 0 and m > 0. The sum
// counts lattice points below a line. Counted along the other axis it is the same sum with b % m
// and m exchanged. It therefore takes as many steps as Euclid's algorithm does for b and m.
__int128 floor_sum(__int128 count, __int128 a, __int128 b, __int128 m) {
  __int128 sum = 0;
  for (;;) {
    sum += count * (count - 1) / 2 * (b / m) + count * (a / m);
    a %= m, b %= m;
    const __int128 top = a + b * count;
    if (top < m) return sum;
    count = top / m;
    a = top % m;
    std::swap(b, m);
  }
}

// Counts the pairs of an output u and a tap k whose index u * out_step + k * tap_step is below
// `limit`.
__int128 pairs_below(const Axis& axis, __int128 limit) {
  if (limit <= 0) return 0;
  const __int128 s = axis.out_step, d = axis.tap_step;
  // Taps from `taps` on meet no output, and taps below `full` meet all of them.
  const __int128 taps = std::min<__int128>(axis.taps, (limit + d - 1) / d);
  const __int128 slack = limit + s - 1 - axis.out * s;
  const __int128 full = slack < 0 ? 0 : std::min(taps, slack / d + 1);
  if (full >= taps) return taps * axis.out;
  const __int128 last = limit + s - 1 - (taps - 1) * d;  // outputs that the last tap meets, times s
  return full * axis.out + floor_sum(taps - full, last, d, s);
}

}  // namespace

double Problem::real_flops() const {
  if (padding_mode != PaddingMode::zeros) return flops();
  // Counts the pairs of an output and a tap whose input is real rather than padding.
  auto pairs = [](const Axis& axis) {
    return static_cast<double>(pairs_below(axis, static_cast<__int128>(axis.in) - axis.offset) -
                               pairs_below(axis, -static_cast<__int128>(axis.offset)));
  };
  return 2.0 * static_cast<double>(N) * static_cast<double>(O) * static_cast<double>(Cg) *
         pairs({OH(), R, H, stride_h, dilation_h, -pad_h}) *
         pairs({OW(), S, W, stride_w, dilation_w, -pad_w});
}

bool Problem::windows_tile_image() const {
  const auto tile = [](int64_t in, int64_t out, int64_t taps, int64_t step, int64_t dilation) {
    const bool covered = out == 1 ? in == taps : step == taps && in == out * taps;
    return covered && (taps == 1 || dilation == 1);
  };
  const bool padded = pad_h != 0 || pad_w != 0 || pad_h_end != 0 || pad_w_end != 0;
  return !padded && tile(H, OH(), R, stride_h, dilation_h) &&
         tile(W, OW(), S, stride_w, dilation_w);
}

int64_t Problem::min_bytes() const {
  const int64_t x = N * C * H * W;
  const int64_t w = O * Cg * R * S;
  const int64_t y = N * O * OH() * OW();
  return (x + w + y + (residual ? y : 0) + (bias ? O : 0)) * size_of(dtype);
}

bool Problem::beyond_memory() const {
  const double rows = static_cast<double>(padded_h()) + kernel_extent_h() + stride_h;
  const double columns = static_cast<double>(padded_w()) + kernel_extent_w() + stride_w;
  const double images = rows * columns * N * std::max(C, O);
  const double weights = static_cast<double>(O) * Cg * R * S;
  return std::max(images, weights) > static_cast<double>(int64_t{1} << 47);
}

const char* to_string(Pass pass) { return name_of(kPasses, pass); }
const char* to_string(DType dtype) { return name_of(kDTypes, dtype); }
const char* to_string(Layout layout) { return name_of(kLayouts, layout); }
const char* to_string(PaddingMode mode) { return name_of(kPaddingModes, mode); }

PaddingMode parse_padding_mode(std::string_view name) {
  std::string choices;
  for (const auto& [mode, known] : kPaddingModes) {
    if (name == known) return mode;
    choices += (choices.empty() ? "'" : ", '") + std::string(known) + "'";
  }
  throw std::invalid_argument("padding_mode must be one of {" + choices +
                              "}, but got padding_mode='" + std::string(name) + "'");
}

int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    default:
      return 2;
  }
}

std::string to_string(const Problem& problem) {
  std::string text;
  for (const SizeField& field : kSizeFields) {
    text += field.letter + std::to_string(problem.*field.member);
    if (field.end != nullptr && problem.*field.end != problem.*field.member) {
      text += "-" + std::to_string(problem.*field.end);
    }
  }
  text += std::string("_") + to_string(problem.dtype) + "_" + to_string(problem.layout) + "_" +
          to_string(problem.pass);
  if (problem.padding_mode != PaddingMode::zeros) {
    text += std::string("+") + to_string(problem.padding_mode);
  }
  if (problem.bias) text += "+bias";
  if (problem.residual) text += "+residual";
  if (problem.activation.kind != ActivationKind::none) text += "+" + to_string(problem.activation);
  return text;
}

Problem parse_problem(std::string_view text, std::string* label) {
  const size_t hash = text.find('#');
  if (label != nullptr) {
    *label = hash == std::string_view::npos ? "" : std::string(text.substr(hash + 1));
  }
  const auto parts = split(text.substr(0, hash), '_', 4);
  if (parts.size() != 4) fail(text, "expected sizes_dtype_layout_pass, separated by '_'");

  Problem problem;
  parse_sizes(parts[0], text, problem);
  problem.dtype = value_of(kDTypes, parts[1], "dtype", text);
  problem.layout = value_of(kLayouts, parts[2], "layout", text);
  const auto words = split(parts[3], '+', SIZE_MAX);
  problem.pass = value_of(kPasses, words[0], "pass", text);
  size_t first = 1;  // word after the mode of padding
  for (const auto& [mode, name] : kPaddingModes) {
    if (mode == PaddingMode::zeros || words.size() == first || words[first] != name) continue;
    problem.padding_mode = mode;
    ++first;
    break;
  }
  for (size_t i = first; i < words.size(); ++i) {
    if (words[i] == "bias" && !problem.bias) {
      problem.bias = true;
    } else if (words[i] == "residual" && !problem.residual) {
      problem.residual = true;
    } else if (problem.activation.kind == ActivationKind::none) {
      try {
        problem.activation = parse_activation(words[i]);
      } catch (const std::invalid_argument& error) {
        fail(text, "expected +bias, +residual or +<activation>: " + std::string(error.what()));
      }
    } else {
      fail(text, "expected +bias, +residual and +<activation>, each once, got '+" +
                     std::string(words[i]) + "'");
    }
  }
  if (problem.pass != Pass::forward && words.size() > first) {
    fail(text, "+bias, +residual and +<activation> belong to the fwd pass");
  }
  problem.Cg = problem.groups > 0 ? problem.C / problem.groups : 0;
  static_cast<Geometry<int64_t>&>(problem) = with_idle_steps_bounded(problem);
  std::string rule = overflowing_size(problem);
  if (rule.empty()) rule = broken_rule(problem);
  if (!rule.empty()) fail(text, rule);
  return problem;
}

}  // namespace convkern
