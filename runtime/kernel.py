"""Kernels of generated modules: plain functions until one is first used.

Importing Triton takes longer than all that a call on the CPU does, and no such call needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnspec.runtime.memo import Memo

if TYPE_CHECKING:
    from attnspec.runtime.arrange import Layout
    from attnspec.runtime.problem import Kind

_ON = ("1", "true", "yes", "on", "y")  # as Triton reads its switches


def _asked() -> bool:
    """Whether the environment, or whoever imported Triton before, asks for its interpreter."""
    if "triton" in sys.modules:
        return bool(sys.modules["triton"].knobs.runtime.interpret)
    return os.environ.get("TRITON_INTERPRET", "").lower() in _ON


_INTERPRETED = _asked()  # as kernels are, once and for all


def interpreted() -> bool:
    """Whether Triton kernels run in Triton's interpreter."""
    return _INTERPRETED


class Kernel:
    """A function in Triton's language, which `jit` makes a Triton kernel."""

    def __init__(self, function: Callable[..., None], unspecialized: list[str]) -> None:
        self.function = function
        self.unspecialized = unspecialized
        self.layouts: Memo[Kind, Layout] = Memo()
        code = function.__code__
        self.arg_names: tuple[str, ...] = code.co_varnames[: code.co_argcount]

    @cached_property
    def jit(self) -> Any:
        """The Triton kernel; its module gets the names that it uses of Triton's language."""
        from attnspec.runtime import compat, language

        for name in language.__all__:
            self.function.__globals__.setdefault(name, getattr(language, name))
        return compat.jit(self.function, self.unspecialized)

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        """What launches the kernel for `grid`."""
        return self.jit[grid]


def kernel(unspecialized: list[str]) -> Callable[[Callable[..., None]], Kernel]:
    """The decorator of kernels; integers called `unspecialized` are not compiled in."""
    return lambda function: Kernel(function, unspecialized)
