"""One case of a verification: sizes, offsets, dtype, layout and kind of inputs, and its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.reference import Evaluator
from attnspec.runtime.sample_sizes import channel_steps
from attnspec.runtime.sampling import keywords, sample

if TYPE_CHECKING:
    from attnspec.runtime.api import Attention

Call = dict[str, Any]  # arguments by name

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
# normal numbers; all zero; products far beyond what exp can take; numbers near nothing; every
# bool input false; NaN in keys and values that no query may see; NaN in one query
FILLS = ("normal", "zeros", "large", "small", "empty", "unseen_nan", "nan_query")
# as allocated; tokens before heads; every other channel of a tensor; one batch for all; a corner
# of a tensor: gaps hold NaN
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "corner")
_HEADS = ("h", "heads", "value_heads")


@dataclass(frozen=True, slots=True)
class Case:
    """What a case fixes; sizes that the spec does not leave open are dropped."""

    sizes: tuple[tuple[str, int], ...]
    q_start: int
    k_start: int
    dtype: str
    layout: str
    fill: str
    seed: int

    def __str__(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes)
        return (
            f"{sizes} q_start={self.q_start} k_start={self.k_start} {self.dtype}"
            f" {self.layout} {self.fill} seed={self.seed}"
        )


def arguments(attention: Attention, case: Case, device: torch.device) -> Call:
    """The call of a case, float tensors as leaves; AttnError when its facts cannot be met."""
    call = _drawn(attention, case)
    filled = _filled(attention, case, call)
    try:
        attention.bind(**filled)
    except AttnError:  # a fact that zeros or empty inputs break
        filled = call
    return {name: _map(value, lambda x: _leaf(x, case, device)) for name, value in filled.items()}


def leaves(call: Mapping[str, Any]) -> dict[str, Tensor]:
    """Everything in a call that takes a gradient, by name; both sides of a pair."""
    found = {}
    for name, value in call.items():
        for place, tensor in enumerate(parts(value)):
            if tensor.is_floating_point():
                found[name if place == 0 else f"{name} (keys)"] = tensor
    return found


def parts(value: object) -> tuple[Tensor, ...]:
    """The tensors of an argument."""
    if isinstance(value, tuple):
        return tuple(v for v in value if isinstance(v, Tensor))
    return (value,) if isinstance(value, Tensor) else ()


def widened(
    call: Mapping[str, Any],
    dtype: torch.dtype,
    near: float = 0.0,
    seed: int = 0,
    device: str | None = None,
) -> Call:
    """The same call in another float dtype, with leaves of its own; `near`: tensors moved
    by up to so much of their size, at random; `device`: where they are."""
    generator = torch.Generator().manual_seed(seed)

    def convert(x: Tensor) -> Tensor:
        x = x if device is None else x.to(device)
        if not x.is_floating_point():
            return x
        x = x.detach().to(dtype)
        if near and x.dim() > 0:
            random = 2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1
            x = x * (1 + near * random.to(x.device, dtype))
        return x.requires_grad_()

    return {name: _map(value, convert) for name, value in call.items()}


def _map(value: Any, change: Any) -> Any:
    if isinstance(value, tuple):
        first = change(value[0])
        return (first, first if value[1] is value[0] else change(value[1]))
    return change(value) if isinstance(value, Tensor) else value


def _drawn(attention: Attention, case: Case) -> Call:
    """Random arguments of the case's sizes, or of as many of them as the spec allows."""
    error: AttnError | None = None
    for fixed, starts in _relaxed(attention, case):
        generator = torch.Generator().manual_seed(case.seed)
        large = 20.0 if torch.finfo(DTYPES[case.dtype]).eps < 1e-6 else 5.0
        scale = {"large": large, "small": 1e-3}.get(case.fill, 1.0)
        try:
            bound = sample(
                attention.spec, generator, fixed, dtype=DTYPES[case.dtype],
                q_start=starts[0], k_start=starts[1], scale=scale,
            )  # fmt: skip
        except AttnError as found:
            error = found
            continue
        return keywords(attention.signature, bound)
    assert error is not None
    raise error


def _relaxed(attention: Attention, case: Case) -> Iterator[tuple[dict[str, int], tuple[int, int]]]:
    called = attention.signature
    axes = {a for argument in called.arguments for a in argument.axes}
    axes |= {f"{grid.side}.{name}" for grid in called.grids for name in grid.names}
    given = {n for n, _ in called.sizes} | {a for _, names, _ in called.tables for a in names}
    fixed = {
        name: size
        for name, size in case.sizes
        if name not in given and (name in axes or name in ("b", *_HEADS))
    }
    for name, step in channel_steps(attention.spec, called).items():
        if name in fixed:
            fixed[name] = -(-fixed[name] // step) * step
    anchored = {own for _, own in called.anchored}
    starts = (0 if "i" in anchored else case.q_start, 0 if "j" in anchored else case.k_start)
    paired = {a.name for a in called.arguments if a.paired}
    if called.square or any(name not in paired for name, _, _ in called.across):
        starts = (0, 0) if anchored else (case.q_start, case.q_start)
        fixed.pop("i", None)
    if called.grids:
        starts = (0, 0)
        fixed = {n: s for n, s in fixed.items() if n not in ("i", "j")}
    yield fixed, starts
    for drop in (("d", "e"), _HEADS, ("i", "j"), tuple(n for n in fixed if "." in n)):
        fixed = {n: s for n, s in fixed.items() if n not in drop}
        yield fixed, starts
    yield {}, (0, 0)


def _filled(attention: Attention, case: Case, call: Call) -> Call:
    """The call with the extreme inputs that the case asks for."""
    match case.fill:
        case "zeros":
            return {n: _map(v, _zeros) for n, v in call.items()}
        case "empty":
            return {n: _map(v, _false) for n, v in call.items()}
        case "unseen_nan":
            return _unseen(attention, call)
        case "nan_query" if "q" in call:
            q = call["q"].clone()
            q[0, -1, q.shape[2] // 2] = float("nan")
            return {**call, "q": q}
    return call


def _zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.is_floating_point() else x


def _false(x: Tensor) -> Tensor:
    return torch.zeros_like(x) if x.dtype is torch.bool else x


def _unseen(attention: Attention, call: Call) -> Call:
    """NaN in keys and values that no query of their heads may see."""
    spec = attention.spec
    if spec.mask is None or spec.states:
        return call
    bound = attention.bind(**call)
    seen = Evaluator(spec, bound, torch.float64).full(spec.mask, ("b", "h", "i", "j")).any(2)
    out = dict(call)
    for decl in spec.decls:
        value = call.get(decl.name)
        if decl.form not in (ast.Form.KEY, ast.Form.VALUE) or not isinstance(value, Tensor):
            continue
        if decl.axes[:3] == ("b", "h", "j") and value.dim() == 4:
            heads = value.shape[1]
            by_key_head = seen.unflatten(1, (heads, -1)).any(2)
            if by_key_head.shape[0] != value.shape[0]:
                by_key_head = by_key_head.any(0, keepdim=True)
            out[decl.name] = value.masked_fill(~by_key_head[..., None], float("nan"))
    again = Evaluator(spec, attention.bind(**out), torch.float64)
    still = again.full(spec.mask, ("b", "h", "i", "j")).any(2)
    return out if torch.equal(still, seen) else call  # what is ranked may come first then


def _leaf(x: Tensor, case: Case, device: torch.device) -> Tensor:
    """x in the case's layout, a leaf where it is float."""
    shared = case.layout == "expanded" and case.fill == "unseen_nan"  # unseen in one batch alone
    x = _laid_out(x.detach().to(device), "contiguous" if shared else case.layout)
    return x.requires_grad_() if x.is_floating_point() else x


def _laid_out(x: Tensor, layout: str) -> Tensor:
    match layout:
        case "transposed" if x.dim() >= 3:
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "strided" if x.dim() >= 1:
            room = _gaps(x, (*x.shape[:-1], 2 * x.shape[-1] + 1))
            return room[..., 1::2].copy_(x)
        case "expanded" if x.dim() >= 3 and x.shape[0] > 1:
            return x[:1].expand(x.shape)
        case "corner" if x.dim() >= 1:
            room = _gaps(x, tuple(n + 2 for n in x.shape))
            inside = room[tuple(slice(1, n + 1) for n in x.shape)]
            return inside.copy_(x)
    return x.contiguous()


def _gaps(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Room for x whose every element would be noticed if it were read."""
    if x.is_floating_point():
        return torch.full(shape, float("nan"), dtype=x.dtype, device=x.device)
    odd = True if x.dtype is torch.bool else 1 << 30
    return torch.full(shape, odd, dtype=x.dtype, device=x.device)
