"""A torch.nn.Module that holds a spec's params."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound
from attnspec.runtime.extents import extent_value
from attnspec.runtime.reference import initial

if TYPE_CHECKING:
    from attnspec.runtime.api import Attention

_NAMES = {"heads": "h", "dim": "d", "value_dim": "e", "batch": "b"}


class AttentionModule(nn.Module):
    """The spec's function with its params as `nn.Parameter`s.

    Sizes that the params need are given by name: `heads` (H), `dim` (D), `value_dim` (E), a
    declared axis by its own name. A param without an initial value is drawn from a normal
    distribution of deviation 0.02. Called like the function, without the params.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **sizes: int,
    ) -> None:
        super().__init__()
        self.attention = attention
        known = _sizes(attention, sizes)
        empty = Bound({}, {}, known, 0, 0, dtype, torch.device(device))
        for argument in attention.signature.arguments:
            if argument.form != "param":
                continue
            missing = [axis for axis in argument.axes if axis not in known]
            if missing:
                options = {v: k for k, v in _NAMES.items()}
                wanted = ", ".join(f"{options.get(a, a)}=" for a in missing)
                raise AttnError(f"module: param `{argument.name}` needs {wanted}")
            shape = [known[axis] for axis in argument.axes]
            if argument.computed:
                value = torch.as_tensor(initial(attention.spec, argument.name, empty))
            elif argument.default is not None:
                value = torch.tensor(argument.default)
            else:
                value = torch.randn(shape) * 0.02
            full = value.to(device=device, dtype=dtype).expand(shape).clone()
            self.register_parameter(argument.name, nn.Parameter(full))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """The spec's function; keyword arguments and results are the same."""
        merged: dict[str, Any] = {**dict(self.named_parameters()), **kwargs}
        result: Tensor | tuple[Tensor, dict[str, Tensor]] = self.attention(*args, **merged)
        return result

    def extra_repr(self) -> str:
        """The spec's name."""
        return self.attention.spec.name


def _sizes(attention: Attention, given: dict[str, int]) -> dict[str, int]:
    signature = attention.signature
    axes = {a for x in signature.arguments for a in x.axes} | {n for n, _ in signature.sizes}
    known: dict[str, int] = {}
    for name, size in given.items():
        axis = _NAMES.get(name, name)
        if axis not in axes | set(_NAMES.values()):
            raise AttnError(f"module: unknown size `{name}`; it takes {', '.join(_NAMES)}")
        if not isinstance(size, int) or size < 1:
            raise AttnError(f"module: expected `{name}` a positive number, got {size!r}")
        known[axis] = size
    for axis, extent in signature.sizes:
        try:
            known.setdefault(axis, extent_value(extent, known, {}, {"i": 0, "j": 0}))
        except KeyError:
            continue  # it follows from the call's own tensors
    return known
