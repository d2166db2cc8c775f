"""What computes in the precision of its operands, whatever autocast asks of others."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

_NOTHING = nullcontext()


def own_precision(device: torch.device) -> AbstractContextManager[None]:
    """A context in which products on `device` are as exact as their operands; costs nothing where
    there is no autocast."""
    if torch._C._is_any_autocast_enabled():
        found: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
        return found
    return _NOTHING
