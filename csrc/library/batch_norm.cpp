// The C interface's functions of batch normalisation.
#include "cpu/norm/batch_norm.h"

#include "core/config.h"
#include "cpu/cpu_features.h"
#include "library/executor.h"
#include "library/status.h"

namespace convkern::library {
namespace {

Isa isa_of(const convkern_batch_norm& norm) { return static_cast<Isa>(norm.isa); }

cpu::BatchNorm from_c(const convkern_batch_norm& c) {
  cpu::BatchNorm norm{};
  norm.images = c.images;
  norm.channels = c.channels;
  norm.pixels = c.pixels;
  norm.layout = static_cast<Layout>(c.layout);
  norm.dtype = static_cast<DType>(c.dtype);
  norm.activation = {static_cast<ActivationKind>(c.activation),
                     {c.activation_parameters[0], c.activation_parameters[1]}};
  norm.eps = c.eps;
  norm.x = c.x;
  norm.residual = c.residual;
  norm.gy[0] = c.gy[0];
  norm.gy[1] = c.gy[1];
  norm.gy_images = c.gy_images;
  norm.y = c.y;
  norm.gx = c.gx;
  norm.gresidual = c.gresidual;
  norm.kept = c.kept;
  norm.weight = c.weight;
  norm.bias = c.bias;
  norm.mean = c.mean;
  norm.invstd = c.invstd;
  norm.gweight = c.gweight;
  norm.gbias = c.gbias;
  norm.given_statistics = c.given_statistics != 0;
  norm.running_mean = c.running_mean;
  norm.running_var = c.running_var;
  norm.momentum = c.momentum;
  return norm;
}

}  // namespace
}  // namespace convkern::library

using namespace convkern;
using namespace convkern::library;

extern "C" {

convkern_status convkern_batch_norm_forward(const convkern_batch_norm* norm,
                                            const convkern_executor* executor) {
  return guarded([&] { from_c(*norm).forward(isa_of(*norm), CallersExecutor(*executor)); });
}

convkern_status convkern_batch_norm_backward(const convkern_batch_norm* norm,
                                             const convkern_executor* executor) {
  return guarded([&] { from_c(*norm).backward(isa_of(*norm), CallersExecutor(*executor)); });
}

int convkern_batch_norm_has(uint8_t activation, int residual) {
  const Activation known{static_cast<ActivationKind>(activation), {}};
  if (residual != 0) return known.kind == ActivationKind::none || known.bounds();
  return cpu::BatchNorm::has_slope(known);
}

int64_t convkern_batch_norm_kept_bytes(const convkern_batch_norm* norm) {
  return from_c(*norm).kept_bytes(isa_of(*norm));
}

uint8_t convkern_batch_norm_isa() {
  const Isa cap = config().isa_cap;
  return static_cast<uint8_t>(std::min(cpu::available_isa(), cap));
}

}  // extern "C"
