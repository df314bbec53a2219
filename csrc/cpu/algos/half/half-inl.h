// bfloat16 and float16 by float32 algorithms: the operands of some images at a time are converted,
// to float32 or to pairs, a kernel computes them in float32, and its results are rounded once.
// Converted images stay in the cache until the kernel reads them, and the workspace does not grow
// with the batch.
#pragma once

#include "cpu/algos/half/conversions-inl.h"
#include "cpu/blocking/parts-inl.h"

namespace convkern::cpu {
namespace {
namespace half {

constexpr int64_t kChunkBytes = 4 << 20;  // of converted images, aimed at
constexpr int64_t kChunkWeights = 2;      // times the weights' bytes, at least: kernels repack them

// The float32 problems, of near-equal parts of the batch: of images, or pairs of them.
template <class Form>
struct Chunks {
  Form form;
  Problem largest;
  int64_t batch, count;

  explicit Chunks(const Problem& p) : form{p}, largest(form.problem()), batch(largest.N) {
    const int64_t float_size = sizeof(float);
    const int64_t image = std::max<int64_t>(1, form.x_floats() + form.y_floats());
    const int64_t bytes = std::max(kChunkBytes, kChunkWeights * form.w_floats() * float_size);
    count = ceil_div(batch, std::max<int64_t>(1, bytes / float_size / image));
    largest.N = ceil_div(batch, count);
  }
  bool adds_up() const { return largest.pass == Pass::grad_weight && count > 1; }
};

// The offsets in the workspace, in bytes, of x or gx, y or gy, w or gw, the sum of the gw of
// several chunks, b, and the workspace of the float32 kernel.
struct Offsets {
  int64_t x, y, w, sum, b, kernel;

  template <class Form>
  explicit Offsets(const Chunks<Form>& chunks) {
    const Form& form = chunks.form;
    const Problem& p = chunks.largest;
    x = 0;
    y = x + whole_lines(p.N * form.x_floats());
    w = y + whole_lines(p.N * form.y_floats());
    sum = w + (chunks.adds_up() ? whole_lines(form.w_floats()) : 0);
    b = sum + whole_lines(form.w_floats());
    kernel = b + whole_lines(p.bias ? p.O : 0);
  }
};

struct Buffers {
  float *x, *y, *w, *sum, *b;
  void* workspace;

  Buffers(const Offsets& offsets, void* memory) {
    auto at = [&](int64_t offset) {
      return reinterpret_cast<float*>(static_cast<char*>(memory) + offset);
    };
    x = at(offsets.x);
    y = at(offsets.y);
    w = at(offsets.w);
    sum = at(offsets.sum);
    b = at(offsets.b);
    workspace = at(offsets.kernel);
  }
};

template <class Form>
void run_chunks(decltype(Functions::run) run, const Problem& p, const Operands& ops, void* memory,
                const Executor& executor) {
  const Chunks<Form> chunks(p);
  const Form& form = chunks.form;
  const Buffers f32(Offsets(chunks), memory);
  const auto* x = static_cast<const uint16_t*>(ops.x);
  const auto* gy = static_cast<const uint16_t*>(ops.gy);
  auto* out = static_cast<uint16_t*>(ops.out);
  const int64_t image_size =
      p.pass == Pass::forward ? p.O * p.OH() * p.OW() : p.C * p.H * p.W;  // of the result
  Problem part = chunks.largest;
  Operands operands;
  operands.w = f32.w;
  operands.packed = ops.packed;
  if (p.pass != Pass::grad_weight && ops.packed == nullptr) {
    form.weights(static_cast<const uint16_t*>(ops.w), f32.w, executor);
  }
  if (p.bias) {
    widen(p.dtype, static_cast<const uint16_t*>(ops.b), p.O, f32.b, executor);
    operands.b = f32.b;
  }
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const Range images = near_equal_part(chunks.batch, chunks.count, chunk);
    part.N = images.size();
    if (p.pass != Pass::grad_input) operands.x = form.x(x, images, f32.x, executor);
    if (p.pass != Pass::forward) operands.gy = form.gy(gy, images, f32.y, executor);
    if (p.pass == Pass::grad_weight) {
      operands.out = chunk == 0 ? f32.sum : f32.w;
      run(part, operands, f32.workspace, executor);
      if (chunk > 0) add(f32.w, form.w_floats(), f32.sum, executor);
      continue;
    }
    uint16_t* result = out + images.begin * image_size;
    float* buffer = p.pass == Pass::forward ? f32.y : f32.x;
    operands.out = Form::kRounds ? static_cast<void*>(result) : buffer;
    run(part, operands, f32.workspace, executor);
    if (!Form::kRounds) narrow(p.dtype, buffer, part.N * image_size, result, executor);
  }
  if (p.pass == Pass::grad_weight) narrow(p.dtype, f32.sum, form.w_floats(), out, executor);
}

// The packing of the float32 algorithm's forward pass, after the conversion of the weights; none
// where it has none.
template <class Form, const Algorithm& kAlgorithm>
constexpr Packing through_packing() {
  if constexpr (kAlgorithm.forward.packing.pack == nullptr) {
    return {};
  } else {
    return {[](const Problem& p) { return kAlgorithm.forward.packing.bytes(Form{p}.problem()); },
            [](const Problem& p, const void* w, void* packed, const Executor& executor) {
              const Form form{p};
              std::vector<float> converted(form.w_floats());
              form.weights(static_cast<const uint16_t*>(w), converted.data(), executor);
              kAlgorithm.forward.packing.pack(form.problem(), converted.data(), packed, executor);
            }};
  }
}

// One pass of a float32 algorithm, in half precision.
template <class Form, const Algorithm& kAlgorithm, Pass kPass>
constexpr Functions through_pass() {
  return {[](const Problem& p) {
            const Reason reason = Form{p}.supports();
            if (reason != Reason::none) return reason;
            constexpr auto kSupports = kAlgorithm.functions(kPass).supports;
            return p.empty() ? Reason::empty : kSupports(Chunks<Form>(p).largest);
          },
          [](const Problem& p, int threads) {
            constexpr auto kWorkspace = kAlgorithm.functions(kPass).workspace;
            const Chunks<Form> chunks(p);
            Problem smaller = chunks.largest;
            smaller.N = std::max<int64_t>(1, chunks.batch / chunks.count);
            return Offsets(chunks).kernel +
                   std::max(kWorkspace(chunks.largest, threads), kWorkspace(smaller, threads));
          },
          [](const Problem& p, const Operands& ops, void* memory, const Executor& executor) {
            run_chunks<Form>(kAlgorithm.functions(kPass).run, p, ops, memory, executor);
          },
          kPass == Pass::forward ? through_packing<Form, kAlgorithm>() : Packing{}};
}

// Why not to compute it so: what the form says or, where it says nothing, what the algorithm does.
template <class Form, const Algorithm& kAlgorithm>
constexpr decltype(Algorithm::declines) through_declines() {
  if constexpr (Form::kDeclines != nullptr) {
    return [](const Problem& p) { return Form::kDeclines(Chunks<Form>(p).largest); };
  } else if constexpr (kAlgorithm.declines != nullptr) {
    return [](const Problem& p) { return kAlgorithm.declines(Chunks<Form>(p).largest); };
  } else {
    return nullptr;
  }
}

// A float32 algorithm, in half precision.
template <class Form, const Algorithm& kAlgorithm>
constexpr Algorithm through = {
    kAlgorithm.name,
    through_pass<Form, kAlgorithm, Pass::forward>(),
    through_pass<Form, kAlgorithm, Pass::grad_input>(),
    through_pass<Form, kAlgorithm, Pass::grad_weight>(),
    through_declines<Form, kAlgorithm>(),
};

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
