"""What differs between the supported versions of Triton, and what of it is no public name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature
from triton.tools.tensor_descriptor import TensorDescriptor

from attnspec.runtime.kernel import interpreted


@cache
def _languages(function: Any) -> tuple[Any, ...]:
    """The modules of Triton's language that a function of a kernel reads."""
    return tuple(x for x in function.fn.__globals__.values() if x is tl or x is tl.core)


def _scanned(self: Any, tensors: Sequence[Any]) -> list[Any]:
    """Along the axis at once for all other places."""
    parts = [np.moveaxis(x.handle.data, self.axis, 0) for x in tensors]
    found = [part.copy() for part in parts]
    for n in range(1, len(parts[0])):
        pairs = [[x[n] for x in parts], [x[n - 1] for x in found]]
        right, left = (map(self.to_tensor, x, [t.dtype for t in tensors]) for x in pairs)
        made = self.combine_fn.fn(*left, *right)
        for into, x in zip(found, made if isinstance(made, tuple) else (made,), strict=True):
            into[n] = x.handle.data
    whole = (np.moveaxis(x, 0, self.axis) for x in found)
    return [self.to_tensor(x, t.dtype) for x, t in zip(whole, tensors, strict=True)]


def _without_waste() -> None:
    """Leave out half of the interpreter's work, which changes nothing.

    It patches Triton's whole language anew at every call of a function in a kernel, works out
    whether an integer overflows even where no assertion would say so, makes a table of all types
    to look up one, and goes through a scan number by number.
    """
    call, builder = interpreter.InterpretedFunction.__call__, interpreter.interpreter_builder
    found = interpreter._get_np_dtype
    known = cache(found)

    def patched(function: Any, *args: Any, **kwargs: Any) -> Any:
        if any(tl.core.is_builtin(language.load) for language in _languages(function)):
            return call(function, *args, **kwargs)
        try:
            return function.rewrite()(*args, **kwargs)
        except Exception as error:
            raise interpreter.InterpreterError(repr(error)) from error

    interpreter.InterpretedFunction.__call__ = patched

    interpreter.ScanOps.generic_scan = _scanned
    interpreter._get_np_dtype = lambda dtype: (known if type(dtype) is tl.dtype else found)(dtype)
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)


if interpreted():
    import numpy as np
    from triton.runtime import interpreter

    _without_waste()


def jit(function: Callable[..., None], unspecialized: list[str]) -> Any:
    """A Triton kernel, in the interpreter where that is asked for."""
    return triton.jit(function, do_not_specialize=unspecialized)


def descriptor(
    x: Any, shape: Sequence[int], strides: Sequence[int], block: Sequence[int]
) -> TensorDescriptor:
    """A tensor that kernels load tiles of by its descriptor. One that is known to be right: to
    check it anew would take longer than all else that a launch does."""
    found = object.__new__(TensorDescriptor)
    vars(found).update(base=x, shape=shape, strides=strides, block_shape=block)
    return found


def specialized(
    kernel: Any, args: Sequence[Any], options: Mapping[str, Any], target: GPUTarget
) -> ASTSource:
    """The source that a launch with these arguments compiles: what is 1 or a multiple of 16 is
    known to the compiler, by Triton's own rules."""
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, found, _ = binder(*args, **options)
    _, signature, constexprs, attrs = kernel._pack_args(backend, options, bound, found, {})
    return ASTSource(kernel, signature, constexprs, attrs)


@contextmanager
def targeting(target: GPUTarget) -> Iterator[None]:
    """Let code that asks which target it is compiled for hear `target`, GPU or none."""
    driver = triton.runtime.driver
    before = driver._active
    driver.set_active(SimpleNamespace(get_current_target=lambda: target))
    try:
        yield
    finally:
        driver._active = before


def nvidia_tool(name: str) -> Path:
    """A CUDA binary utility that Triton's package carries: cuobjdump or nvdisasm."""
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
