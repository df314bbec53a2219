"""The implementations that the suite times. Each is a function that prepares a call for a
problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from convkern.activations import activated
from convkern.bench.timing import Call
from convkern.choices import Activation, PaddingMode, Pass
from convkern.functional import conv2d, torchs_conv2d
from convkern.testing import Operands
from convkern.window import paddings, sides_of

# The names of what is timed, with the passes of a problem string that each consists of.
PASSES: Final[Mapping[str, tuple[Pass, ...]]] = {"fwd": ("fwd",), "fwd_bwd": ("fwd", "gx", "gw")}
PASS_NAMES: Final = {"fwd": "forward", "fwd_bwd": "forward+backward"}


def prepare(peer: str, ops: Operands, pass_: str) -> Call | None:
    """Returns the call of `peer` that computes `pass_`, or None if the peer cannot compute it.
    "fwd" is the output, and "fwd_bwd" the output and the gradients of all operands."""
    return PEERS[peer](ops, pass_)


def _torch_call(conv: Callable[..., Tensor], ops: Operands, pass_: str) -> Call:
    p = ops.problem
    window = p.stride, p.padding, p.dilation, p.groups, p.padding_mode
    epilogue = (p.activation, ops.residual)
    if pass_ == "fwd":

        def forward() -> Tensor:
            with torch.no_grad():
                return conv(ops.x, ops.w, ops.b, *window, *epilogue)

        return forward
    leaves = [t.detach().requires_grad_() for t in (ops.x, ops.w, ops.b) if t is not None]
    bias = leaves[2] if len(leaves) == 3 else None

    def step() -> tuple[Tensor, ...]:
        y = conv(leaves[0], leaves[1], bias, *window, *epilogue)
        return torch.autograd.grad(y, leaves, ops.gy)

    return step


def _by_convkern(
    x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int,
    padding_mode: PaddingMode, activation: Activation | None, residual: Tensor | None,
) -> Tensor:  # fmt: skip
    return conv2d(
        x, w, b, stride, padding, dilation, groups,
        padding_mode=padding_mode, activation=activation, residual=residual,
    )  # fmt: skip


def _by_torch(x: Tensor, w: Tensor, b: Tensor | None, *window_and_epilogue: Any) -> Tensor:
    *window, mode, activation, residual = window_and_epilogue
    y = torchs_conv2d(x, w, b, *window, padding_mode=mode)
    return activated(y, activation, residual)


def _convkern(ops: Operands, pass_: str) -> Call:
    return _torch_call(_by_convkern, ops, pass_)


def _torch(ops: Operands, pass_: str) -> Call:
    return _torch_call(_by_torch, ops.map(Tensor.contiguous), pass_)


def _torch_channels_last(ops: Operands, pass_: str) -> Call:
    def channels_last(t: Tensor) -> Tensor:
        return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t

    return _torch_call(_by_torch, ops.map(channels_last), pass_)


def _onnxruntime(ops: Operands, pass_: str) -> Call | None:
    """Returns onnxruntime's Conv, with as many threads as torch has now. The threads sleep between
    calls, because spinning threads would slow down whatever is timed next. Weights are inputs of
    the graph, because as constants they would be packed ahead of the call."""
    problem = ops.problem
    if pass_ != "fwd" or problem.dtype != "f32":
        return None
    others = problem.residual or problem.padding_mode != "zeros"
    if problem.activation not in (None, "relu") or others:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        _onnx_model(ops).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    tensors = {"x": ops.x, "w": ops.w, "b": ops.b}
    feeds = {name: t.contiguous().numpy() for name, t in tensors.items() if t is not None}
    return lambda: session.run(None, feeds)


def _onnx_model(ops: Operands) -> Any:
    from onnx import TensorProto, helper

    problem, float32 = ops.problem, TensorProto.FLOAT
    (top, bottom), (left, right) = sides_of(paddings(problem.padding))
    names = ["x", "w"] if ops.b is None else ["x", "w", "b"]
    conv = helper.make_node(
        "Conv", names, ["y"], strides=problem.stride, dilations=problem.dilation,
        pads=[top, left, bottom, right], group=problem.groups,
    )  # fmt: skip
    nodes = [conv]
    if problem.activation == "relu":
        nodes.append(helper.make_node("Relu", ["y"], ["z"]))
    sizes = (problem.input_size, problem.weight_size, problem.weight_size[:1])
    inputs = [
        helper.make_tensor_value_info(name, float32, size)
        for name, size in zip(names, sizes, strict=False)
    ]
    output = helper.make_tensor_value_info(nodes[-1].output[0], float32, problem.output_size)
    graph = helper.make_graph(nodes, "conv", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


CPU_PEERS: Final = ("onnxruntime",)  # these compute on the CPU only
PEERS: Final[Mapping[str, Callable[[Operands, str], Call | None]]] = {
    "convkern": _convkern,
    "torch": _torch,
    "torch_channels_last": _torch_channels_last,
    "onnxruntime": _onnxruntime,
}
