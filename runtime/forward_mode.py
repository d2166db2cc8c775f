"""Forward-mode differentiation, which generated kernels have not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from attnspec.dsl.diagnostics import AttnError


def no_forward_mode(tensors: Iterable[Any]) -> None:
    """Refuse forward-mode differentiation, which would silently give zero, of tensors or pairs of
    them."""
    if torch.compiler.is_compiling():
        return
    if torch.autograd.forward_ad._current_level >= 0:
        for x in tensors:
            for part in x if isinstance(x, tuple) else (x,):
                if isinstance(part, Tensor) and unpack_dual(part).tangent is not None:
                    raise AttnError(
                        "forward-mode differentiation (jvp) of a generated kernel: not there"
                    )
