// A convolution problem (one pass over one geometry in one dtype and layout) and its text form.
//
// Grammar of the text form, used in logs, test ids, benchmark rows and on the command line:
//   sizes "_" dtype "_" layout "_" pass ["+" mode] ["+bias"] ["+residual"] ["+" activation]
//   ["#" label]
//   sizes  = n c h w (input) k r s (weight) p q (padding) u v (stride) d e (dilation) g (groups),
//            each a letter followed by a decimal number; p q u v d e g may be left out, meaning
//            0 0 1 1 1 1 1; p and q are of both sides, or of each, as in p1-2: 1 before and 2 after
//   dtype  = f32 | f64 | bf16 | f16
//   layout = nchw | nhwc
//   pass   = fwd | gx | gw
//   mode   = reflect | replicate | circular, of the padding; without it the padding is zeros
//   activation = relu | silu | clamp(-1,1) | ..., see core/activation.h
// Example: n512c1h28w28k1r14s14p2q2u1v1d1e1g1_f32_nchw_fwd+bias#fmnist/padding3.conv1
#pragma once

#include <string>
#include <string_view>

#include "core/activation.h"
#include "core/geometry.h"

namespace convkern {

enum class Pass : uint8_t { forward, grad_input, grad_weight };
enum class DType : uint8_t { f32, f64, bf16, f16 };
enum class Layout : uint8_t { nchw, nhwc };  // of x and y; w is always (O, C / groups, R, S)

struct Problem : Geometry<int64_t> {
  Pass pass = Pass::forward;
  DType dtype = DType::f32;
  Layout layout = Layout::nchw;
  // The forward pass computes y = activation(convolution + bias + residual).
  bool bias = false;
  bool residual = false;  // of y's shape and layout
  Activation activation;

  // Operations of the direct sum, two for each multiply-add. Products with padding zeros count, as
  // is usual in the field. The number is a double because it can exceed int64_t even where every
  // operand fits.
  double flops() const;
  double real_flops() const;  // without padding zeros; the same for all passes
  bool empty() const { return N == 0 || O == 0 || C == 0; }  // no products to compute
  // Whether the windows that the outputs read cover the image and none overlap: kernels as large as
  // the image, patches (kernels as large as their stride), and 1x1 kernels with stride 1.
  bool windows_tile_image() const;
  // Bytes that must move at least once: both operands are read and the result is written.
  int64_t min_bytes() const;
  // Returns whether some tensor would have more than 2^47 elements, which no address space holds.
  // The padded images, with a kernel and a stride that reach beyond them, count as a tensor too.
  // Below this limit every size that a kernel computes fits int64_t, because it is a few numbers
  // for each such element. Above it the sizes of tensors fit (see overflowing_size()), but those of
  // a kernel may not.
  bool beyond_memory() const;
};

// Returns the problem of the convolution alone, with its bias.
inline Problem without_epilogue(Problem problem) {
  problem.residual = false;
  problem.activation = {};
  return problem;
}

const char* to_string(Pass pass);
const char* to_string(DType dtype);
const char* to_string(Layout layout);
const char* to_string(PaddingMode mode);
PaddingMode parse_padding_mode(std::string_view name);  // throws std::invalid_argument
int64_t size_of(DType dtype);                           // bytes in one element

// Returns the canonical text, which has all sizes and no label.
std::string to_string(const Problem& problem);

// Throws std::invalid_argument, whose message names the text and the rule that it breaks. The label
// is stored in `label` unless that is null.
Problem parse_problem(std::string_view text, std::string* label = nullptr);

}  // namespace convkern
