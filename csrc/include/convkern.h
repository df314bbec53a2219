// The C interface of libconvkern: problems, plans, kernels and settings, without torch.
//
// One build of the library serves every framework binding that is compiled against this header.
// Structures are plain data, errors are a status and a text, and C++ exceptions do not leave the
// library. All functions may be called from any thread.
#ifndef CONVKERN_H
#define CONVKERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

// ---- Errors ----

typedef enum convkern_status {
  CONVKERN_OK = 0,
  CONVKERN_INVALID,        // an argument breaks a rule, which the text names
  CONVKERN_OUT_OF_MEMORY,  // memory of the host
  CONVKERN_FAILED          // anything else, such as a CUDA error
} convkern_status;

// The text of this thread's last error, valid until its next call.
const char* convkern_last_error(void);

// ---- Problems ----

typedef enum convkern_pass {
  CONVKERN_FORWARD,      // x, w, b -> y
  CONVKERN_GRAD_INPUT,   // gy, w -> gx
  CONVKERN_GRAD_WEIGHT,  // gy, x -> gw
} convkern_pass;
typedef enum convkern_dtype {
  CONVKERN_F32,
  CONVKERN_F64,
  CONVKERN_BF16,
  CONVKERN_F16,
} convkern_dtype;
typedef enum convkern_layout { CONVKERN_NCHW, CONVKERN_NHWC } convkern_layout;  // of x and y
// What the cells around an image hold.
typedef enum convkern_padding_mode {
  CONVKERN_ZEROS,
  CONVKERN_REFLECT,
  CONVKERN_REPLICATE,
  CONVKERN_CIRCULAR,
} convkern_padding_mode;
// Their names and formulas are in core/activation.h.
typedef enum convkern_activation {
  CONVKERN_NO_ACTIVATION,
  CONVKERN_RELU,
  CONVKERN_RELU6,
  CONVKERN_CLAMP,
  CONVKERN_LEAKY_RELU,
  CONVKERN_HARDSIGMOID,
  CONVKERN_HARDSWISH,
  CONVKERN_SIGMOID,
  CONVKERN_SILU,
  CONVKERN_GELU,
  CONVKERN_GELU_TANH,
} convkern_activation;
typedef enum convkern_device { CONVKERN_CPU, CONVKERN_CUDA } convkern_device;

// One pass over one geometry: x (N, C, H, W), w (O, Cg, R, S), y (N, O, OH, OW); Cg is C / groups.
typedef struct convkern_problem {
  int64_t N, C, H, W, O, Cg, R, S;
  int64_t stride_h, stride_w, dilation_h, dilation_w, groups;
  int64_t pad_h, pad_w, pad_h_end, pad_w_end;  // before the first row and column, after the last
  // Values of the enumerations above, and whether there is a bias and a residual. The forward pass
  // computes y = activation(convolution + bias + residual); the residual has y's shape and layout.
  uint8_t pass, dtype, layout, padding_mode, bias, residual, activation;
  double activation_parameters[2];  // of clamp (low, high) and leaky_relu (slope)
} convkern_problem;

// Facts that follow from a problem; the names are static.
typedef struct convkern_problem_facts {
  const char *pass, *dtype, *layout, *padding_mode;
  int64_t OH, OW;
  double flops, real_flops;  // two a multiply-add; the latter without products with padding zeros
  int64_t min_bytes;         // that must move at least once
} convkern_problem_facts;

// Parses the text form (core/problem.h has its grammar).
convkern_status convkern_parse_problem(const char* text, convkern_problem* problem);
// Writes the canonical text form, with its final zero, to a buffer of CONVKERN_PROBLEM_TEXT bytes.
#define CONVKERN_PROBLEM_TEXT 512
void convkern_problem_text(const convkern_problem* problem, char* buffer);
// Sets the activation of a problem from its name, such as "relu" or "clamp(-1,1)"
// (core/activation.h lists them).
convkern_status convkern_parse_activation(const char* text, convkern_problem* problem);
// Sets the mode of padding of a problem from its name, such as "reflect".
convkern_status convkern_parse_padding_mode(const char* text, convkern_problem* problem);
// Checks the sizes and rules of nn.Conv2d, in torch's words where it has some, and makes strides
// and dilations that lead nowhere small enough for sums.
convkern_status convkern_check_problem(convkern_problem* problem);
convkern_problem_facts convkern_facts(const convkern_problem* problem);

// ---- Kernels and plans ----

// One row of the kernel lists; the texts are static.
typedef struct convkern_kernel_row {
  const char *name, *pass, *algorithm, *dtype, *device, *isa, *precision;
  int deterministic;  // bitwise equal results from run to run and for any number of threads
} convkern_kernel_row;

// The row at `index`, in order of preference within its device and pass; 0 beyond the last.
int convkern_kernel_at(size_t index, convkern_kernel_row* row);

// The caller's side of the choice of a kernel.
typedef struct convkern_request {
  uint8_t device;         // convkern_device
  uint8_t deterministic;  // whether results must be bitwise equal from run to run
  uint8_t tf32;           // whether float32 may be rounded to TF32
  uint8_t packs;          // whether the caller keeps packed weights, and wants their size
  int32_t threads;        // that will work
} convkern_request;

// How a problem will be computed. Who gets a plan frees it with convkern_free_plan(), once for all
// copies of the structure, and before another plan is made in its place.
typedef struct convkern_plan {
  convkern_problem problem;
  const void* prepared;  // what the library has worked out; null after a failure
  const void* kernel;    // identifies the kernel in this process
  const char* kernel_name;
  int64_t workspace_bytes;  // of scratch memory, 64-byte aligned
  int64_t packed_bytes;     // of packed weights, 64-byte aligned; 0 if the kernel has none
  uint8_t forced;           // whether the kernel was forced by name
  uint8_t reference;        // whether it is the slow reference
  const char* warning;      // null, or what to tell the user, valid until this thread's next call
} convkern_plan;

// Chooses the kernel that runs the problem. CONVKERN_INVALID if a forced kernel does not support it
// or the build has none for the device; CONVKERN_FAILED if only the reference does and the setting
// `strict` forbids it.
convkern_status convkern_make_plan(const convkern_problem* problem, const convkern_request* request,
                                   convkern_plan* plan);
// Makes the plan as convkern_make_plan() does, but warns of nothing and logs nothing. It calls
// `rejected` for each other kernel of the pass and dtype with the reason why that is not chosen.
convkern_status convkern_explain(const convkern_problem* problem, const convkern_request* request,
                                 void (*rejected)(void* self, const char* kernel,
                                                  const char* reason),
                                 void* self, convkern_plan* plan);
// Frees what the library holds for the plan. Its other fields stay.
void convkern_free_plan(convkern_plan* plan);

// ---- Execution ----

// Tasks [begin, end) on thread `thread` of [0, threads).
typedef void (*convkern_body)(void* context, int64_t begin, int64_t end, int thread);

// Where kernels run. `run` calls `body` for all tasks [0, count) in ranges of at least `grain`
// (unless count is less), on at most `threads` threads, and returns when all are done.
typedef struct convkern_executor {
  const void* self;
  int threads;
  void (*run)(const void* self, int64_t count, int64_t grain, convkern_body body, void* context);
  void* stream;                    // a cudaStream_t for CUDA, else null
  void (*wait)(const void* self);  // returns when all that was launched is done; may be null
} convkern_executor;

// Dense operands in the problem's layout (w and gw contiguous); null where the pass reads none.
typedef struct convkern_operands {
  const void *x, *w, *b, *gy;
  const void* residual;  // added to y before the activation; must not overlap `out`
  void* out;             // y, gx or gw; every element is written
  const void* packed;    // what convkern_pack_weights wrote, in place of w
} convkern_operands;

convkern_status convkern_run(const convkern_plan* plan, const convkern_operands* operands,
                             void* workspace, const convkern_executor* executor);
// Packs contiguous weights for later runs of plans with this kernel, groups and weight sizes.
convkern_status convkern_pack_weights(const convkern_plan* plan, const void* w, void* packed,
                                      const convkern_executor* executor);

// The gradient of y = relu(convolution + bias), of float32 tensors (images, channels, pixels) that
// are dense in `layout`: masked = gy where y > 0, else 0 (where y is given), and gb, (channels,),
// its sum over a channel (where gb is given).
typedef struct convkern_epilogue_gradient {
  int64_t images, channels, pixels;
  uint8_t layout;
  const float *gy, *y;
  float *masked, *gb;
} convkern_epilogue_gradient;

convkern_status convkern_run_epilogue_gradient(const convkern_epilogue_gradient* gradient,
                                               const convkern_executor* executor);

// Batch normalisation, with an activation after it and a residual before that:
//   y = activation((x - mean) * invstd * weight + bias + residual)
// The tensors are (images, channels, pixels) of `dtype`, dense in `layout`, and are read and
// written in place. The numbers of channels are float64 for float64 tensors and else float32.
// cpu/norm/batch_norm.h says which pointers may be null.
typedef struct convkern_batch_norm {
  int64_t images, channels, pixels;
  uint8_t layout, dtype;
  uint8_t given_statistics;  // whether mean and invstd are given, and are not the batch's
  uint8_t activation;
  uint8_t isa;  // convkern_batch_norm_isa(): the backward pass must have that of the forward pass
  double activation_parameters[2];
  double eps, momentum;
  const void *x, *residual, *weight, *bias;
  void *mean, *invstd, *running_mean, *running_var;
  void* y;
  uint16_t* kept;  // convkern_batch_norm_kept_bytes(); with a residual and an activation
  // The backward pass: two gradients of y to be added up, of which the second may be null.
  const void* gy[2];
  const void* gy_images;  // (images, channels), numbers like those of channels, or null
  void *gx, *gresidual, *gweight, *gbias;
} convkern_batch_norm;

convkern_status convkern_batch_norm_forward(const convkern_batch_norm* norm,
                                            const convkern_executor* executor);
convkern_status convkern_batch_norm_backward(const convkern_batch_norm* norm,
                                             const convkern_executor* executor);
// Whether the derivative of an activation is known, which the passes need; with a residual only
// those of bounds are.
int convkern_batch_norm_has(uint8_t activation, int residual);
int64_t convkern_batch_norm_kept_bytes(const convkern_batch_norm* norm);
uint8_t convkern_batch_norm_isa(void);

// ---- Settings and facts of the process ----

// Sets "precision" (highest, high, medium; high at first, see core/kernel.h), "verbosity" (empty,
// dispatch, plan, profile), "strict" or "batch_invariant" (0, 1).
convkern_status convkern_set(const char* setting, const char* value);
// The value of a setting, or of a fact: "isa_cap", "available_isa", "cpu_features" (separated by
// spaces), "compiler", "cuda" (the toolkit that the loaded CUDA kernels were built with, or empty).
// Null for an unknown name.
const char* convkern_get(const char* name);
// Reads the CONVKERN_* variables that core/config.h lists.
convkern_status convkern_configure_from_environment(void);

// Forces a kernel for its device and pass, or caps the instruction set, until the context, a number
// above 0, is left. Contexts may be left in any order.
convkern_status convkern_force_kernel(const char* name, int64_t* context);
convkern_status convkern_cap_isa(const char* isa, int64_t* context);
convkern_status convkern_leave(int64_t context);

// Loads a library of kernels for CUDA devices, once, before any of the above is used.
convkern_status convkern_load_cuda(const char* path);

// Measures FLOP/s of float32 and bytes/s of the executor's threads with the vectors of an
// instruction set, or the best that the processor has, in a third of a second.
convkern_status convkern_measure_peak(const convkern_executor* executor, const char* isa,
                                      double* flops, double* bandwidth);
// Tells the library the FLOP/s and bytes/s that so many threads reach at most, for the lines of
// verbosity `profile`.
void convkern_set_roof(int threads, double flops, double bandwidth);

// The lock of the library's own state, for callers that keep state of the same life: a fork waits
// for it, so that a child never finds it locked. Not recursive.
void convkern_lock(void);
void convkern_unlock(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif

#endif
