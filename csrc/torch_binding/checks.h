// Turns the tensors and integers of an op call into a checked Geometry. The same code serves
// concrete and symbolic sizes, so that eager execution and tracing raise the same errors.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymIntArrayRef.h>

#include <cctype>

#include "core/copy_geometry.h"
#include "core/geometry_rules.h"
#include "torch_binding/library.h"

namespace convkern::torch_binding {

// The parameters that the three ops share. The padding is (rows, columns), of both sides, or (top,
// bottom, left, right).
template <class Int>
struct Window2d {
  c10::ArrayRef<Int> stride, padding, dilation;
  Int groups;
  std::string_view padding_mode;
};

inline int64_t size_of_dim(const at::Tensor& t, int64_t dim, int64_t /*as*/) { return t.size(dim); }
inline c10::SymInt size_of_dim(const at::Tensor& t, int64_t dim, const c10::SymInt& /*as*/) {
  return t.sym_size(dim);
}

template <class Int>
void check_pair(c10::ArrayRef<Int> values, const char* name, bool or_sides = false) {
  TORCH_CHECK(values.size() == 2 || (or_sides && values.size() == 4), "conv2d: expected ", name,
              " to be a single integer value or a list of 2 values to match the convolution "
              "dimensions, but got ",
              name, "=", values);
}

inline void check_rank_4(const at::Tensor& t, const char* name) {
  TORCH_CHECK(t.dim() == 4, "conv2d: ", name, " must have 4 dimensions, got ", name, " with shape ",
              t.sym_sizes());
}

// Checks that the tensors of an op have the same device and dtype.
inline void check_same_kind(const at::Tensor& a, const char* a_name, const at::Tensor& b,
                            const char* b_name) {
  TORCH_CHECK(a.device() == b.device(), "conv2d: ", a_name, " and ", b_name,
              " must be on the same device, got ", a.device(), " and ", b.device());
  // torch's message begins with a capital, so the name of the input does too.
  TORCH_CHECK(a.scalar_type() == b.scalar_type(),
              "conv2d: ", static_cast<char>(std::toupper(a_name[0])), a_name + 1, " type (",
              a.dtype(), ") and ", b_name, " type (", b.dtype(), ") should be the same dtype");
}

// Checks that the operand's memory is there. A tensor keeps its sizes when its storage is freed or
// made smaller, and FSDP frees parameters between their uses.
inline void check_allocated(const at::Tensor& t, const char* name, const char* op = "conv2d") {
  if (t.numel() == 0) return;
  int64_t elements = t.storage_offset() + 1;
  for (int64_t dim = 0; dim < t.dim(); ++dim) elements += (t.size(dim) - 1) * t.stride(dim);
  const int64_t needed = elements * static_cast<int64_t>(t.itemsize());
  const c10::Storage& storage = t.storage();
  TORCH_CHECK(
      storage && storage.data() != nullptr && static_cast<int64_t>(storage.nbytes()) >= needed, op,
      ": ", name,
      " has a non-zero number of elements, but its data is not allocated yet: its shape ",
      t.sizes(), " needs a storage of ", needed, " bytes, and it has ",
      storage ? storage.nbytes() : 0);
}

// Returns the number of the output's channels. As in torch it is 0 if the input has no channels,
// although the weight has O of them.
inline int64_t output_channels(const Geometry<int64_t>& g) { return g.C == 0 ? 0 : g.O; }
inline c10::SymInt output_channels(const Geometry<c10::SymInt>& g) {
  return g.C.maybe_as_int() == 0 ? c10::SymInt(0) : g.O;
}

// Raises an error if `g` breaks a rule. Bounds its idle steps (geometry_rules.h).
inline void check_rules(Geometry<int64_t>& g) {
  convkern_problem problem{};
  copy_geometry(g, problem);
  const convkern_status status = convkern_check_problem(&problem);
  TORCH_CHECK(status == CONVKERN_OK, "conv2d: ", convkern_last_error());
  copy_geometry(problem, g);
}

// Only concrete sizes can overflow, because the sizes of symbolic tensors are bounded by memory.
inline void check_rules(Geometry<c10::SymInt>& g) {
  Geometry<int64_t> concrete;
  bool all = true;
  auto copy = [&](int64_t& to, const c10::SymInt& from) {
    if (const auto value = from.maybe_as_int()) {
      to = *value;
    } else {
      all = false;
    }
  };
  copy(concrete.N, g.N), copy(concrete.C, g.C), copy(concrete.H, g.H), copy(concrete.W, g.W);
  copy(concrete.O, g.O), copy(concrete.Cg, g.Cg), copy(concrete.R, g.R), copy(concrete.S, g.S);
  copy(concrete.stride_h, g.stride_h), copy(concrete.stride_w, g.stride_w);
  copy(concrete.pad_h, g.pad_h), copy(concrete.pad_w, g.pad_w);
  copy(concrete.pad_h_end, g.pad_h_end), copy(concrete.pad_w_end, g.pad_w_end);
  concrete.padding_mode = g.padding_mode;
  copy(concrete.dilation_h, g.dilation_h), copy(concrete.dilation_w, g.dilation_w);
  copy(concrete.groups, g.groups);
  if (all) return check_rules(concrete);
  const std::string rule = broken_rule(g);
  TORCH_CHECK(rule.empty(), "conv2d: ", rule);
}

inline PaddingMode parse_padding_mode(std::string_view name) {
  convkern_problem problem{};
  const std::string text(name);
  TORCH_CHECK_VALUE(convkern_parse_padding_mode(text.c_str(), &problem) == CONVKERN_OK,
                    "conv2d: ", convkern_last_error());
  return static_cast<PaddingMode>(problem.padding_mode);
}

// Returns the checked geometry for x = (N, C, H, W) and w = (O, C / groups, R, S). Each has 4
// sizes.
template <class Int>
Geometry<Int> checked_geometry(c10::ArrayRef<Int> x, c10::ArrayRef<Int> w,
                               const Window2d<Int>& window) {
  check_pair(window.stride, "stride");
  check_pair(window.padding, "padding", /*or_sides=*/true);
  check_pair(window.dilation, "dilation");
  Geometry<Int> g;
  g.N = x[0], g.C = x[1], g.H = x[2], g.W = x[3];
  g.O = w[0], g.Cg = w[1], g.R = w[2], g.S = w[3];
  g.stride_h = window.stride[0], g.stride_w = window.stride[1];
  const size_t sides = window.padding.size() / 2;  // of an axis
  g.pad_h = window.padding[0], g.pad_h_end = window.padding[sides - 1];
  g.pad_w = window.padding[sides], g.pad_w_end = window.padding.back();
  g.dilation_h = window.dilation[0], g.dilation_w = window.dilation[1];
  g.groups = window.groups;
  if (window.padding_mode != "zeros") g.padding_mode = parse_padding_mode(window.padding_mode);
  check_rules(g);
  return g;
}

template <class Int>
c10::ArrayRef<Int> sizes_of(const at::Tensor& t);
template <>
inline c10::ArrayRef<int64_t> sizes_of(const at::Tensor& t) {
  return t.sizes();
}
template <>
inline c10::ArrayRef<c10::SymInt> sizes_of(const at::Tensor& t) {
  return t.sym_sizes();
}

// Each of these checks the operands of one op and returns the geometry.
template <class Int>
Geometry<Int> check_conv2d(const at::Tensor& x, const at::Tensor& w,
                           const std::optional<at::Tensor>& b, const Window2d<Int>& window) {
  check_rank_4(x, "input");
  TORCH_CHECK(w.dim() == 4, "conv2d: Expected ", w.dim(), "-dimensional input for ", w.dim(),
              "-dimensional weight ", w.sym_sizes(), ", but got 4-dimensional input of size ",
              x.sym_sizes(), " instead: weight must have 4 dimensions");
  check_same_kind(x, "input", w, "weight");
  const Geometry<Int> g = checked_geometry(sizes_of<Int>(x), sizes_of<Int>(w), window);
  if (b.has_value()) {
    check_same_kind(x, "input", *b, "bias");
    TORCH_CHECK(b->dim() == 1 && sizes_of<Int>(*b)[0] == g.O, "conv2d: Given weight of size ",
                w.sym_sizes(), ", expected bias to be 1-dimensional with ", g.O,
                " elements, but got bias of size ", b->sym_sizes(), " instead");
  }
  return g;
}

template <class Int>
void check_grad_output(const at::Tensor& gy, const Geometry<Int>& g) {
  const auto sizes = sizes_of<Int>(gy);
  TORCH_CHECK(
      sizes[0] == g.N && sizes[1] == output_channels(g) && sizes[2] == g.OH() && sizes[3] == g.OW(),
      "conv2d: grad_output must have the output's shape [", g.N, ", ", output_channels(g), ", ",
      g.OH(), ", ", g.OW(), "], got ", gy.sym_sizes());
}

template <class Int>
Geometry<Int> check_grad_input(const at::Tensor& gy, const at::Tensor& w,
                               c10::ArrayRef<Int> input_size, const Window2d<Int>& window) {
  check_rank_4(gy, "grad_output");
  check_rank_4(w, "weight");
  check_same_kind(gy, "grad_output", w, "weight");
  TORCH_CHECK(input_size.size() == 4, "conv2d: input_size must have 4 elements, got ", input_size);
  const Geometry<Int> g = checked_geometry(input_size, sizes_of<Int>(w), window);
  check_grad_output(gy, g);
  return g;
}

template <class Int>
Geometry<Int> check_grad_weight(const at::Tensor& gy, const at::Tensor& x,
                                c10::ArrayRef<Int> weight_size, const Window2d<Int>& window) {
  check_rank_4(gy, "grad_output");
  check_rank_4(x, "input");
  check_same_kind(gy, "grad_output", x, "input");
  TORCH_CHECK(weight_size.size() == 4, "conv2d: weight_size must have 4 elements, got ",
              weight_size);
  const Geometry<Int> g = checked_geometry(sizes_of<Int>(x), weight_size, window);
  check_grad_output(gy, g);
  return g;
}

// Checks that a residual can be added to the output of conv2d().
template <class Int>
void check_residual(const at::Tensor& x, const at::Tensor& residual, const Geometry<Int>& g) {
  check_same_kind(x, "input", residual, "residual");
  const std::vector<Int> wanted = {g.N, output_channels(g), g.OH(), g.OW()};
  TORCH_CHECK(sizes_of<Int>(residual) == c10::ArrayRef<Int>(wanted),
              "conv2d: residual must have the output's shape ", c10::ArrayRef<Int>(wanted),
              ", got ", residual.sym_sizes());
}

// Returns a problem of which only the activation is set.
inline convkern_problem parse_activation(std::optional<std::string_view> name) {
  convkern_problem problem{};
  if (name.has_value()) {
    const std::string text(*name);
    TORCH_CHECK_VALUE(text.find('\0') == std::string::npos,
                      "conv2d: activation must have no zero character, got activation='",
                      text.c_str(), "\\0...'");
    TORCH_CHECK_VALUE(convkern_parse_activation(text.c_str(), &problem) == CONVKERN_OK,
                      "conv2d: ", convkern_last_error());
  }
  return problem;
}

// Returns the memory format of a result. As in nn.Conv2d it is channels_last if either operand is.
inline at::MemoryFormat result_format(const at::Tensor& a, const at::Tensor& b) {
  const bool last = a.suggest_memory_format() == at::MemoryFormat::ChannelsLast ||
                    b.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

}  // namespace convkern::torch_binding
