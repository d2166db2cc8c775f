"""What a user would call instead of a spec's kernels, made to say what the spec says.

`sdpa` is PyTorch's scaled_dot_product_attention, its mask and bias as a tensor unless the mask is
causal; `eager` is softmax(q k + bias) v in plain PyTorch, dense; `flex` is compiled FlexAttention
with a mask_mod and a score_mod; `reference` is the spec's meaning, dense in float64. What stands
before the dot product and after the sum (rotations, output gates) is plain PyTorch in all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attnspec.runtime.peer_form import Form, Unfit, form, inlined, terms
from attnspec.runtime.peer_scores import places
from attnspec.runtime.peer_task import (
    Task,
    dense,
    dot_factor,
    evaluators,
    has_groups,
    is_causal,
    operands,
    output,
    over,
    pair_function,
    product,
    room,
)
from attnspec.runtime.reference import Evaluator, evaluate

Call = Callable[[], Tensor]

NAMES = ("sdpa", "eager", "flex", "reference")
_CUDA_BACKENDS = {
    "sdpa flash": "FLASH_ATTENTION",
    "sdpa cudnn": "CUDNN_ATTENTION",
    "sdpa efficient": "EFFICIENT_ATTENTION",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """An implementation ready to be called; `kept` is what was made beforehand."""

    name: str
    call: Call
    note: str = ""
    kept: tuple[Tensor, ...] = ()

    @property
    def bytes(self) -> int:
        """What `kept` takes."""
        return sum({x.data_ptr(): x.untyped_storage().nbytes() for x in self.kept}.values())


def names(asked: str, device: str) -> tuple[str, ...]:
    """The implementations that a name asks for: on a GPU every backend of sdpa."""
    return tuple(_CUDA_BACKENDS) if asked == "sdpa" and device == "cuda" else (asked,)


def peer(name: str, task: Task) -> Peer:
    """The implementation `name`, prepared; `Unfit` where it cannot say what the spec says."""
    if name == "reference":
        return _reference(task)
    shape = form(task.spec)
    if name == "eager":
        return _eager(task, shape)
    if name == "flex":
        return _flex(task, shape)
    return _sdpa(task, shape, _CUDA_BACKENDS.get(name))


def _reference(task: Task) -> Peer:
    if task.spec.output is None:
        raise Unfit("it has no output")
    room(task, 8 * 8)
    return Peer(
        "reference", lambda: cast(Tensor, evaluate(task.spec, task.bound).output), "in float64"
    )


def _sdpa(task: Task, shape: Form, backend: str | None) -> Peer:
    if shape.score is None or shape.sink is not None:
        raise Unfit("its weights are no softmax" if shape.score is None else "sdpa takes no sink")
    scaled = inlined(task.spec, shape.scaled)
    causal = shape.masked and inlined(task.spec, shape.score) is scaled and is_causal(task)
    bias = _Bias(task, replace(shape, masked=False) if causal else shape, added=False)
    if bias.beside is None:
        raise Unfit("its score is no sum of a dot product and a bias")
    scale = dot_factor(task, shape)
    grouped = has_groups(task)
    fresh = evaluators(task, shape, bias.functions)

    def call() -> Tensor:
        e = fresh()
        q, k, v = operands(task, shape, e)
        out = F.scaled_dot_product_attention(
            q, k, v, bias.made(e), is_causal=causal, scale=scale, enable_gqa=grouped
        )
        return output(task, shape, e, out)

    note = "is_causal" if causal else "" if bias.empty else f"attn_mask {bias.how}"
    if backend is None:
        return Peer("sdpa", call, note, bias.kept)
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def by_backend() -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return call()

    name = next(name for name, known in _CUDA_BACKENDS.items() if known == backend)
    return Peer(name, by_backend, note, bias.kept)


def _eager(task: Task, shape: Form) -> Peer:
    room(task, 4 * task.bound.dtype.itemsize)
    bias = _Bias(task, shape, added=True)
    scale = dot_factor(task, shape)
    function = None
    if bias.beside is None:
        whole = shape.weight if shape.score is None else shape.score
        function = pair_function(task, whole, shape.scaled)
    hidden = None if bias.beside is not None or bias.mask is None else ~bias.mask
    rows = places(task.bound)
    sink = shape.sink
    fresh = evaluators(task, shape, bias.functions if function is None else (function,))

    def call() -> Tensor:
        e = fresh()
        q, k, v = operands(task, shape, e)
        group = q.shape[1] // k.shape[1]
        dots = product(q * scale, k.mT, group)
        if function is None:
            added = bias.made(e)
            dots = dots if added is None else dots + added
        else:
            dots = function.bound(e)(dots, *rows)
            empty = 0.0 if shape.score is None else -torch.inf
            dots = dots if hidden is None else dots.masked_fill(hidden, empty)
        if shape.score is None:
            weights = dots
        elif sink is None:
            weights = dots.softmax(-1)
        else:
            last = e.full(sink, ("b", "h", "i"))[..., None]
            weights = torch.cat([dots, last], -1).softmax(-1)[..., :-1]
        return output(task, shape, e, product(weights, v, group))

    return Peer("eager", call, "" if bias.empty else f"mask and bias {bias.how}", bias.kept)


def _flex(task: Task, shape: Form) -> Peer:
    from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

    if shape.score is None:
        raise Unfit("its weights are no softmax")
    spec, bound, e = task.spec, task.bound, task.evaluator()
    blocks = None
    if shape.masked and spec.mask is not None:
        room(task, 3 * 8, over=spec.mask.free)
        inside = pair_function(task, spec.mask, shape.scaled, hold=False).bound(e)
        b, h = (bound.sizes[axis] if axis in spec.mask.free else None for axis in "bh")
        blocks = create_block_mask(
            lambda b, h, i, j: inside(i, b, h, i, j),
            b, h, bound.sizes["i"], bound.sizes["j"], device=bound.device.type,
        )  # fmt: skip
    score = None
    if shape.score is not inlined(spec, shape.scaled):
        score = pair_function(task, shape.score, shape.scaled, hold=False)
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    scale, grouped, sink = dot_factor(task, shape), has_groups(task), shape.sink

    wanted: Any = None if sink is None else AuxRequest(lse=True)
    fresh = evaluators(task, shape, () if score is None else (score,))

    def call() -> Tensor:
        e = fresh()
        q, k, v = operands(task, shape, e)
        out = compiled(
            q, k, v,
            score_mod=None if score is None else score.bound(e),
            block_mask=blocks, scale=scale, enable_gqa=grouped,
            return_aux=wanted,
        )  # fmt: skip
        if sink is not None:
            out, aux = out
            rest = e.full(sink, ("b", "h", "i"))
            out = (out * torch.sigmoid(aux.lse - rest)[..., None]).to(out.dtype)
        return output(task, shape, e, out)

    kept = () if blocks is None else tuple(x for x in blocks.as_tuple() if isinstance(x, Tensor))
    return Peer("flex", call, "" if blocks is None else "block mask made beforehand", kept)


class _Bias:
    """Mask and bias of a spec as a tensor over pairs; what does not change is made at once.

    A mask alone is a tensor of bools, or with `added` of 0 and -inf.
    """

    def __init__(self, task: Task, shape: Form, added: bool) -> None:
        spec = task.spec
        score = shape.score
        self.beside = None if score is None else terms(spec, score, inlined(spec, shape.scaled))
        self.mask = None
        given = places(task.bound)
        if shape.masked and spec.mask is not None:
            room(task, 1, over=spec.mask.free)
            mask = dense(task, spec.mask)
            self.mask = None if bool(mask.all()) else mask  # as for one query, the last
        self.parts = [
            (sign, pair_function(task, node, shape.scaled)) for sign, node in self.beside or ()
        ]
        self.functions = [part for _, part in self.parts]
        self.empty = self.mask is None and not self.parts
        fixed = all(task.fixed(node) for _, node in self.beside or ())
        self.how = "made beforehand" if fixed else "made in each call"

        hidden = None if self.mask is None else ~self.mask

        def make(e: Evaluator) -> Tensor | None:
            total: Tensor | None = None
            for sign, part in self.parts:
                value = over(part.bound(e)(given[0], *given), *given[2:])
                value = value if sign > 0 else -value
                total = value if total is None else total + value
            if hidden is None:
                return None if total is None else total.to(task.bound.dtype)
            if total is None:
                if not added:
                    return self.mask
                total = torch.zeros((), device=hidden.device).expand_as(hidden)
            return total.to(task.bound.dtype).masked_fill(hidden, -torch.inf)

        self.made = make
        masks = (x for x in (self.mask, hidden) if x is not None)
        self.kept = (*masks, *(x for _, part in self.parts for x in part.held))
        if fixed and self.beside is not None:
            with torch.no_grad():
                whole = make(task.evaluator())
            self.made = lambda e: whole
            self.kept = () if whole is None else (whole,)
