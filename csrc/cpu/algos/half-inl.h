// bfloat16 and float16 through float32: some images at a time are converted, a float32 kernel
// computes them, and its results are rounded once. Converted images stay in the cache until the
// kernel reads them, and the workspace does not grow with the batch.
#pragma once

namespace convkern::cpu {
namespace {
namespace half {

constexpr int64_t kChunkBytes = 4 << 20;  // of converted images, aimed at
constexpr int64_t kChunkWeights = 2;      // times the weights' bytes, at least: kernels repack them
constexpr int64_t kGrain = 1 << 15;       // numbers worth a thread

inline void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof(bits));
  }
}

inline void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, from + i, sizeof(bits));
    const uint32_t to_even = 0x7fff + (bits >> 16 & 1);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    to[i] = static_cast<uint16_t>(nan ? 0x7fc0 : (bits + to_even) >> 16);
  }
}

void widen(DType dtype, const void* from, int64_t first, int64_t n, float* to,
           const Executor& executor) {
  const auto convert = dtype == DType::bf16 ? widen_bf16 : widen_f16;
  const auto* halves = static_cast<const uint16_t*>(from) + first;
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    convert(halves + begin, end - begin, to + begin);
  });
}

void narrow(DType dtype, const float* from, int64_t n, void* to, int64_t first,
            const Executor& executor) {
  const auto convert = dtype == DType::bf16 ? narrow_bf16 : narrow_f16;
  auto* halves = static_cast<uint16_t*>(to) + first;
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    convert(from + begin, end - begin, halves + begin);
  });
}

void add(const float* terms, int64_t n, float* sums, const Executor& executor) {
  executor.run(n, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) sums[i] += terms[i];
  });
}

// The float32 problems, of near-equal parts of the batch, and the float32 copies of their operands.
struct Chunks {
  int64_t batch, count;
  Problem largest;
  int64_t image_in, image_out, weights;  // numbers

  explicit Chunks(const Problem& p)
      : batch(p.N),
        largest(p),
        image_in(p.C * p.H * p.W),
        image_out(p.O * p.OH() * p.OW()),
        weights(p.O * p.Cg * p.R * p.S) {
    const int64_t float_size = sizeof(float);
    const int64_t bytes = std::max(kChunkBytes, kChunkWeights * weights * float_size);
    const int64_t images = std::max<int64_t>(1, bytes / float_size / (image_in + image_out));
    count = ceil_div(batch, images);
    largest.N = ceil_div(batch, count);
    largest.dtype = DType::f32;
  }
  bool adds_up() const { return largest.pass == Pass::grad_weight && count > 1; }
  int64_t bias() const { return largest.bias ? largest.O : 0; }
  int64_t bytes() const {
    return whole_lines(largest.N * image_in) + whole_lines(largest.N * image_out) +
           whole_lines(weights) * (adds_up() ? 2 : 1) + whole_lines(bias());
  }
};

// The workspace, in order: x or gx, y or gy, w or gw, the sum of the gw of several chunks, b, and
// that of the float32 kernel.
struct Buffers {
  float *x, *y, *w, *sum, *b;
  void* workspace;

  Buffers(const Chunks& chunks, void* memory) {
    auto* at = static_cast<char*>(memory);
    auto take = [&at](int64_t floats) {
      auto* taken = reinterpret_cast<float*>(at);
      at += whole_lines(floats);
      return taken;
    };
    x = take(chunks.largest.N * chunks.image_in);
    y = take(chunks.largest.N * chunks.image_out);
    w = take(chunks.weights);
    sum = chunks.adds_up() ? take(chunks.weights) : w;
    b = take(chunks.bias());
    workspace = at;
  }
};

using RunKernel = void (*)(const Problem&, const Operands&, void* workspace, const Executor&);

void run_chunks(RunKernel run, const Problem& p, const Operands& ops, void* memory,
                const Executor& executor) {
  const Chunks chunks(p);
  const Buffers f32(chunks, memory);
  Problem part = chunks.largest;
  Operands operands{f32.x, f32.w, p.bias ? f32.b : nullptr, f32.y, nullptr};
  if (p.pass != Pass::grad_weight) widen(p.dtype, ops.w, 0, chunks.weights, f32.w, executor);
  if (p.bias) widen(p.dtype, ops.b, 0, p.O, f32.b, executor);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const Range images = near_equal_part(p.N, chunks.count, chunk);
    const int64_t in = chunks.image_in, out = chunks.image_out;
    part.N = images.size();
    if (p.pass != Pass::grad_input) {
      widen(p.dtype, ops.x, images.begin * in, part.N * in, f32.x, executor);
    }
    if (p.pass != Pass::forward) {
      widen(p.dtype, ops.gy, images.begin * out, part.N * out, f32.y, executor);
    }
    operands.out = p.pass == Pass::forward      ? f32.y
                   : p.pass == Pass::grad_input ? f32.x
                   : chunk == 0                 ? f32.sum
                                                : f32.w;
    run(part, operands, f32.workspace, executor);
    if (p.pass == Pass::forward) {
      narrow(p.dtype, f32.y, part.N * out, ops.out, images.begin * out, executor);
    } else if (p.pass == Pass::grad_input) {
      narrow(p.dtype, f32.x, part.N * in, ops.out, images.begin * in, executor);
    } else if (chunk > 0) {
      add(f32.w, chunks.weights, f32.sum, executor);
    }
  }
  if (p.pass == Pass::grad_weight) {
    narrow(p.dtype, f32.sum, chunks.weights, ops.out, 0, executor);
  }
}

// What a float32 kernel computes, in half precision; see Functions.
template <Reason (*kSupports)(const Problem&), int64_t (*kWorkspace)(const Problem&, int),
          RunKernel kRun, Reason (*kDeclines)(const Problem&)>
constexpr Functions through() {
  return {[](const Problem& p) {
            if (p.dtype != DType::bf16 && p.dtype != DType::f16) return Reason::dtype;
            return p.empty() ? Reason::empty : kSupports(Chunks(p).largest);
          },
          [](const Problem& p, int threads) {
            const Chunks chunks(p);
            Problem smaller = chunks.largest;
            smaller.N = std::max<int64_t>(1, p.N / chunks.count);
            return chunks.bytes() +
                   std::max(kWorkspace(chunks.largest, threads), kWorkspace(smaller, threads));
          },
          [](const Problem& p, const Operands& ops, void* memory, const Executor& executor) {
            run_chunks(kRun, p, ops, memory, executor);
          },
          kDeclines == nullptr ? nullptr
                               : +[](const Problem& p) { return kDeclines(Chunks(p).largest); }};
}

}  // namespace half
}  // namespace
}  // namespace convkern::cpu
