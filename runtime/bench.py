"""Speed of a spec's kernels beside PyTorch's own attention on the same tensors."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

import attnspec
from attnspec.runtime.api import Attention
from attnspec.runtime.typical import Arguments, typical

_SECONDS = 0.5
_MOST = 200


@dataclass(frozen=True, slots=True)
class Timing:
    """Median milliseconds of one implementation; `backward` is forward and backward together.

    `note` says how what was timed differs from the spec, or why nothing was.
    """

    spec: str
    implementation: str
    device: str
    dtype: str
    batch: int
    heads: int
    rows: int
    columns: int
    channels: int
    forward: float | None
    backward: float | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Shape:
    """What to time at."""

    batch: int = 2
    heads: int = 8
    length: int = 1024
    channels: int = 64
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


def default_shape() -> Shape:
    """Float32 on the CPU, bfloat16 at more size on a GPU."""
    if torch.cuda.is_available():
        return Shape(4, 16, 4096, 64, torch.bfloat16, "cuda")
    return Shape()


def bench(name: str, against: Sequence[str], shape: Shape) -> Iterator[Timing]:
    """Time the spec `name` (a path or a library name), then each of `against` beside it."""
    attention = attnspec.load(name)
    given = typical(
        attention.spec,
        batch=shape.batch,
        heads=shape.heads,
        length=shape.length,
        channels=shape.channels,
        dtype=shape.dtype,
        device=shape.device,
    )
    yield _time(attention, "attnspec", shape, given, _call(attention, attention, given))
    for other in against:
        try:
            call, note = _other(other, attention, given)
            yield _time(attention, other, shape, given, call, note)
        except (Unfit, RuntimeError, NotImplementedError) as error:
            why = str(error).strip().split("\n")[0]
            yield _timing(attention, other, shape, given, None, None, f"not timed: {why}")


class Unfit(Exception):
    """Why there is nothing to time."""


def _other(name: str, attention: Attention, given: Arguments) -> tuple[Callable[[], Tensor], str]:
    """An implementation to stand beside, and how it differs from the spec."""
    if name == "reference":
        return _call(attention.reference, attention, given), "dense, float64"
    q, k, v = (given.get(operand) for operand in "qkv")
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        raise Unfit("the spec does not take q, k and v")
    causal = attention.spec.causal
    note = f"{'causal' if causal else 'full'} attention, whatever else the spec says"
    if name == "sdpa":
        return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal), note
    if q.device.type == "cpu":
        raise Unfit("FlexAttention has no backward pass on the CPU")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = None
    if causal:
        mask = create_block_mask(
            lambda b, h, i, j: i >= j, None, None, q.shape[2], k.shape[2], device=q.device.type
        )
    compiled = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask), note


def _time(
    attention: Attention,
    implementation: str,
    shape: Shape,
    given: Arguments,
    call: Callable[[], Tensor],
    note: str = "",
) -> Timing:
    floats = [x for x in given.values() if isinstance(x, Tensor) and x.is_floating_point()]
    with torch.no_grad():
        forward = milliseconds(call, shape.device)
    for tensor in floats:
        tensor.requires_grad_()
    try:
        upstream = torch.randn_like(call())
        backward = milliseconds(
            lambda: torch.autograd.grad(call(), floats, upstream, allow_unused=True), shape.device
        )
    finally:
        for tensor in floats:
            tensor.requires_grad_(False)
    return _timing(attention, implementation, shape, given, forward, backward, note)


def _timing(
    attention: Attention,
    implementation: str,
    shape: Shape,
    given: Arguments,
    forward: float | None,
    backward: float | None,
    note: str,
) -> Timing:
    q, k = given.get("q"), given.get("k")
    return Timing(
        spec=attention.spec.name,
        implementation=implementation,
        device=shape.device,
        dtype=str(shape.dtype).removeprefix("torch."),
        batch=shape.batch,
        heads=shape.heads,
        rows=q.shape[2] if isinstance(q, Tensor) else shape.length,
        columns=k.shape[2] if isinstance(k, Tensor) else shape.length,
        channels=shape.channels,
        forward=forward,
        backward=backward,
        note=note,
    )


def _call(
    function: Callable[..., Any], attention: Attention, given: Arguments
) -> Callable[[], Tensor]:
    """A call of `function`: its output, or where there is none what it returns, in a row."""
    if attention.spec.output is not None:
        return lambda: cast(Tensor, function(**given))

    def call() -> Tensor:
        _, returned = function(**given, extras=True)
        return torch.cat([t.flatten() for t in returned.values() if t.is_floating_point()])

    return call


def milliseconds(call: Callable[[], object], device: str) -> float:
    """The median time of one call, after two that warm up."""
    for _ in range(2):
        call()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _MOST and (len(times) < 3 or time.perf_counter() - started < _SECONDS):
        times.append(_cuda(call) if device == "cuda" else _cpu(call))
    return statistics.median(times)


def _cpu(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def _cuda(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
