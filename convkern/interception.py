"""convkern.enabled, enable and disable: torch's convolutions run on convkern's functions, whoever
calls them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode

from convkern.conv1d import conv1d, conv_transpose1d, torch_conv1d, torch_conv_transpose1d
from convkern.functional import conv2d, torch_conv2d
from convkern.pads import PaddedInput, padded_input, torch_pad
from convkern.transposed import conv_transpose2d, torch_conv_transpose2d

P = ParamSpec("P")
R = TypeVar("R")

# What runs instead of a function. convkern's own functions are here because other modes on torch's
# stack, and layers behind a pad, make them come by.
_OURS: dict[Any, Callable[..., Any]] = {
    torch_conv1d: conv1d,
    torch_conv2d: conv2d,
    torch_conv_transpose1d: conv_transpose1d,
    torch_conv_transpose2d: conv_transpose2d,
    conv1d: conv1d,
    conv2d: conv2d,
    conv_transpose1d: conv_transpose1d,
    conv_transpose2d: conv_transpose2d,
}
_PLAIN = frozenset({Tensor, nn.Parameter, type(None), int, str, tuple, list})


class Interception(TorchFunctionMode):
    """Runs torch's convolutions on convkern's functions in a ``with`` block, or in a function that
    it decorates. :func:`convkern.enabled` makes one. It has no state, so that one object serves any
    number of blocks, also inside each other and in several threads."""

    # torch.fx records functions of proxies. A block leaves a graph torch's, which then runs inside
    # a block or outside. A layer of replace_layers is convkern's in the graph too.
    _records_ours = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch has taken this mode off its stack for the call, so that nothing comes here twice.
        kwargs = {} if kwargs is None else kwargs
        ours = _OURS.get(func)
        if ours is not None:
            return self._convolution(func, ours, args, kwargs)
        if func is torch_pad and not torch.compiler.is_compiling():
            lazy = padded_input(*args, **kwargs)
            if lazy is not None:
                return lazy
        return func(*args, **kwargs)

    def _convolution(
        self, func: Any, ours: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        for value in args:
            if type(value) not in _PLAIN and not self._takes(value):
                return func(*args, **kwargs)
        for value in kwargs.values():
            if type(value) not in _PLAIN and not self._takes(value):
                return func(*args, **kwargs)
        if args and type(args[0]) is PaddedInput:
            return _of_padded(ours, *args, **kwargs)
        return ours(*args, **kwargs)

    def _takes(self, value: Any) -> bool:
        """Returns whether convkern's function may get this argument. It gets no tensor of a class
        that may know torch's functions only, such as one for quantisation. Classes of torch that
        leave functions as they are, such as DTensor, are no hindrance."""
        cls = type(value)
        if cls is PaddedInput:
            return True
        if isinstance(value, Proxy):
            return self._records_ours
        function = getattr(cls, "__torch_function__", None)
        if function is None:
            return True
        leaves = function is torch._C._disabled_torch_function_impl
        return leaves and cls.__module__.partition(".")[0] == "torch"

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorates a function, whose calls then run in a block. Raises TypeError for functions
        whose body runs after the call: generators and coroutines."""
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            name = getattr(function, "__qualname__", repr(function))
            raise TypeError(f"enabled: {name} must be a function whose body runs in its call")

        @functools.wraps(function)
        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return inside


class Calls(TorchFunctionMode):
    """Notes the convolutions that are called in its block.

    Attributes:
        found: for each, convkern's function, the arguments, those by name, and the result.
    """

    def __init__(self) -> None:
        self.found: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OURS:
            self.found.append((_OURS[func], args, kwargs or {}, result))
        return result


def enabled() -> Interception:
    """Lets torch's convolutions run on convkern's functions inside a ``with`` block, whoever calls
    them: layers of any class, parametrized and spectral-normed layers, and code that calls
    functions.

    The functions are ``conv1d``, ``conv2d``, ``conv_transpose1d`` and ``conv_transpose2d`` of
    ``torch`` and ``torch.nn.functional``. Arguments, shapes, dtypes, autocast, derivatives and
    errors are those of convkern's functions of these names, which hand to torch what they do not
    compute: integers, complex numbers, sparse and quantised tensors, other devices. Calls with
    tensor classes from outside torch stay torch's.

    The block counts for its thread alone. Threads that the block starts are not in it, such as
    those of nn.DataParallel. Blocks may be nested. The result also decorates a function:
    ``@convkern.enabled()``, but not a generator or a coroutine, whose body runs later. Coroutines
    share the blocks of their thread: there should be no ``await`` in a block. A convolution that is
    recomputed in the backward pass, by torch.utils.checkpoint, is in the block only if backward()
    is called in the block. On CUDA, convkern's kernels run, which are slower than cuDNN's on most
    layers.

    ``torch.compile`` sees the block, inside a compiled function and around one: the graph then has
    convkern's ops. Programs of TorchScript that exist already are not changed.
    ``torch.fx.symbolic_trace`` in a block records torch's functions, so that the graph runs inside
    a block and outside.

    Each call of a torch function in the block, also one that is no convolution, takes about a
    microsecond longer, and nn.TransformerEncoderLayer does not take its fast path.
    :func:`convkern.replace_layers` has such costs for convolutions only.

    **Pads.** A pad in front of a convolution needs no padded copy if nothing can happen between
    the two. torch's pad copies the values when it is called, and a program may change the input
    before the convolution reads the copy: in place, through a NumPy array of the same memory, or
    from another thread. A pad is therefore left out only in code that is known to give it to the
    convolution at once:

    - nn.Conv1d and nn.Conv2d with padding modes, and their subclasses that leave this to them;
    - a pad layer of torch directly in front of such a layer, or of one of convkern's, in an
      nn.Sequential, if neither has hooks;
    - timm's Conv2dSame.

    Zeros, "reflect", "replicate" and "circular" can be left out. Other pads stay torch's: pads of
    other code, values other than 0, cropping, inputs of fewer than 65,536 elements, whose copy
    takes little time, and all pads that torch.compile, torch.export, a tracer or autograd records.
    Autograd saves the copy for the backward pass, and a program may change the input before that.

    Example:
        >>> class Scaled(nn.Conv2d):
        ...     def forward(self, x):
        ...         return torch.conv2d(x, 2 * self.weight, self.bias)
        >>> layer, x = Scaled(3, 8, 3), torch.randn(2, 3, 16, 16)
        >>> with convkern.enabled():
        ...     y = layer(x)
        >>> y.shape, y.grad_fn.name()
        (torch.Size([2, 8, 14, 14]), 'Conv2dBackward')
    """
    return Interception()


_LASTING = Interception()


def enable() -> None:
    """Does what :func:`convkern.enabled` does, in the calling thread from now on, until
    :func:`convkern.disable` is called there or the thread ends. Called again, it changes nothing.

    It may be called in any ``with`` block of torch's or of convkern's, and still counts after it.
    Other threads are not affected.

    Example:
        >>> convkern.enable()
        >>> layer = torch.nn.Conv2d(3, 8, 3)
        >>> layer(torch.randn(2, 3, 16, 16)).grad_fn.name()
        'Conv2dBackward'
        >>> convkern.disable()
    """
    modes = _taken_off()
    if _LASTING not in modes:
        # It goes to the bottom of the stack, because blocks that are open now end by taking off the
        # top. Below it may only be the mode of torch.set_default_device, which insists on that.
        default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        modes.insert(1 if default is not None and default in modes[:1] else 0, _LASTING)
    _put_back(modes)


def disable() -> None:
    """Undoes :func:`convkern.enable` in the calling thread. Blocks of :func:`convkern.enabled` that
    are open stay so. If there is nothing to undo, it changes nothing.

    Example:
        >>> convkern.enable()
        >>> convkern.disable()
    """
    _put_back([mode for mode in _taken_off() if mode is not _LASTING])


def _taken_off() -> list[Any]:
    """Takes all modes off this thread's stack and returns them, the bottom one first."""
    count = torch._C._len_torch_function_stack()
    return [_pop_mode() for _ in range(count)][::-1]  # type: ignore[no-untyped-call]


def _put_back(modes: Sequence[Any]) -> None:
    for mode in modes:
        _push_mode(mode)  # type: ignore[no-untyped-call]


def _of_padded(
    ours: Callable[..., Any],
    input: PaddedInput,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    *rest: Any,
    **options: Any,
) -> Any:
    """Computes a convolution of a padded input, without the padded copy where it can be."""
    sides = _sides_taken(ours, input, padding, weight, bias)
    if sides is None:
        return ours(input.tensor(), weight, bias, stride, padding, *rest, **options)
    options["padding_mode"] = input.mode
    return ours(input.input, weight, bias, stride, sides, *rest, **options)


def _sides_taken(
    ours: Callable[..., Any], input: PaddedInput, padding: Any, weight: Tensor, bias: Tensor | None
) -> tuple[tuple[int, int], ...] | None:
    """Returns the padding of a convolution that computes the pad too, or None if it cannot."""
    axes = {conv1d: 1, conv2d: 2}.get(ours)
    if axes is None or input.is_recorded(weight, bias):
        return None
    return input.sides_with(padding, axes)
