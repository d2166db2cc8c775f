"""Speed and memory of a spec's kernels beside what a user would call instead.

Every implementation gets the same tensors in the same process, is held against ours on them, and
is timed in turns with all others; what counts is the ratio of a round. A spec whose kernels do not
hold against the reference is not timed at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

import attnspec
from attnspec.dsl import ast
from attnspec.runtime.api import Attention
from attnspec.runtime.kernel import interpreted
from attnspec.runtime.launch import backend_for
from attnspec.runtime.native_build import compiler
from attnspec.runtime.peer_form import Unfit
from attnspec.runtime.peer_task import Task
from attnspec.runtime.peers import Peer, names, peer
from attnspec.runtime.rounds import Memory, Spread, first, ratios, rounds, spread
from attnspec.runtime.tiles import by_descriptors, describing
from attnspec.runtime.typical import Arguments, typical
from attnspec.runtime.verify_case import DTYPES, Case
from attnspec.runtime.verify_rule import Impossible, hold

OURS = "attnspec"
PHASES = FORWARD, BOTH = ("forward", "forward + backward")
# Largest error beside ours on the timed tensors, as a share of the largest number.
_ALIKE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
_COUNTED = 2**26  # pairs that a CPU counts in a second
_CHECKED = {True: 40, False: 200}  # tokens of a numeric check, under the interpreter or not


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a call; `rows` and `kv_heads` are as many as `length` and `heads` by default."""

    batch: int = 1
    heads: int = 8
    length: int = 4096
    channels: int = 64
    dtype: str = "float32"
    device: str = "cpu"
    rows: int | None = None
    kv_heads: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to time. `given` are arguments in place of typical ones, by the length; `constant` are
    float arguments that neither change nor get a gradient. `descriptors`: our kernels load tiles by
    them. Not `timed`: memory alone, of one call.
    """

    spec: str
    shape: Shape
    against: tuple[str, ...] = ("sdpa",)
    phases: tuple[str, ...] = PHASES
    case: str = ""
    given: Callable[[int], Mapping[str, Any]] | None = None
    constant: tuple[str, ...] = ()
    seconds: float = 1.0
    limit: float | None = None
    timed: bool = True
    descriptors: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One implementation: milliseconds of a call; `ratio` is ours over its, so below 1 we win.

    `bytes` is the most memory in use at once beyond the arguments, what was made beforehand
    included. `prepare_ms` made masks and biases, `first_ms` is a first call with all that it
    compiles. `why` says why nothing was timed.
    """

    implementation: str
    milliseconds: Spread | None = None
    ratio: Spread | None = None
    bytes: int | None = None
    prepare_ms: float = 0.0
    first_ms: float = 0.0
    rounds: int = 0
    note: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """One spec at one size in one phase. `wrong` says why nothing at all was timed.

    `pairs` are the (b, h, i, j) that take part.
    """

    case: str
    spec: str
    phase: str
    device: str
    dtype: str
    batch: int
    heads: int
    kv_heads: int
    rows: int
    columns: int
    channels: int
    pairs: int | None
    found: tuple[Row, ...] = field(default=())
    wrong: str = ""

    def row(self, implementation: str) -> Row | None:
        """What an implementation took, if it was asked for."""
        return next((row for row in self.found if row.implementation == implementation), None)

    def tflops(self, row: Row) -> float | None:
        """10^12 operations a second: 4 a pair and channel forward, 3.5 times that with backward."""
        if row.milliseconds is None or self.pairs is None:
            return None
        work = 4 * self.channels * self.pairs * (1.0 if self.phase == FORWARD else 3.5)
        return work / row.milliseconds.median / 1e9


class Wrong(Exception):
    """What is wrong with the kernels that were to be timed."""


def default_shape() -> Shape:
    """Float32 on the CPU, bfloat16 at more size on a GPU."""
    if torch.cuda.is_available():
        return Shape(2, 16, 8192, 128, "bfloat16", "cuda")
    return Shape()


def bench(request: Request) -> Sequence[Measured]:
    """Time one spec, a result for each phase."""
    with by_descriptors() if request.descriptors else nullcontext():
        return tuple(_phases(request))


def _phases(request: Request) -> Iterator[Measured]:
    attention, shape = attnspec.load(request.spec), request.shape
    given = _arguments(attention, request)
    # What the check compiles is part of a first call, but not of the memory of a call alone.
    wrong = "" if request.timed else problem(attention, shape)
    for phase in request.phases:
        with _Leaves(attention, given, request.constant, phase == BOTH) as leaves:
            task = _task(attention, given, leaves)
            found: tuple[Row, ...] = ()
            try:
                found = () if wrong else tuple(_rows(attention, request, given, task, leaves))
            except Wrong as error:
                wrong = str(error)
            except Exception as error:  # ours: the rest of a suite goes on
                wrong = f"{type(error).__name__}: {_first_line(error)}"
            sizes = task.bound.sizes
            yield Measured(
                case=request.case or attention.spec.name,
                spec=attention.spec.name,
                phase=phase,
                device=shape.device,
                dtype=shape.dtype,
                batch=shape.batch,
                heads=shape.heads,
                kv_heads=shape.kv_heads or shape.heads,
                rows=sizes["i"],
                columns=sizes["j"],
                channels=shape.channels,
                pairs=_pairs(task),
                found=found,
                wrong=wrong,
            )


def problem(attention: Attention, shape: Shape) -> str:
    """What is wrong, forward or backward, with the kernels that are about to be timed."""
    columns = min(_CHECKED[interpreted()], shape.length)
    rows = min(columns, shape.rows or shape.length)
    kv_heads = shape.kv_heads or shape.heads
    sizes = {"b": 1, "h": shape.heads // kv_heads * 2, "heads": 2, "i": rows, "j": columns}
    sizes |= {"d": shape.channels, "e": shape.channels}
    if not attention.plan.fused:
        return ""  # what runs is the definition
    case = Case(
        tuple(sizes.items()), columns - rows, 0, shape.dtype, "contiguous", "normal", seed=1
    )
    backend = backend_for(None, torch.device(shape.device))
    if backend == "auto":  # a long call is compiled, whatever a short one is
        backend = "cpu" if compiler() is None else "native"
    return _held(attention, case, backend, shape.device, describing())


@cache
def _held(attention: Attention, case: Case, backend: str, device: str, descriptors: bool) -> str:
    """What is wrong with one case, by pointers or by descriptors."""
    try:
        outcome = hold(attention, case, backend, device)
    except Impossible as error:
        return f"not checked: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    return outcome.problems[0] if outcome.problems else ""


def _arguments(attention: Attention, request: Request) -> Arguments:
    shape = request.shape
    given = typical(
        attention.spec,
        batch=shape.batch,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        length=shape.length,
        rows=shape.rows,
        channels=shape.channels,
        side=math.isqrt(shape.length),
        dtype=DTYPES[shape.dtype],
        device=shape.device,
    )
    if request.given is not None:
        changed = request.given(shape.length)
        given |= {n: v.to(shape.device) if isinstance(v, Tensor) else v for n, v in changed.items()}
    if shape.rows is not None and shape.rows < shape.length and attention.spec.causal:
        given["q_start"] = shape.length - shape.rows
    return given


class _Leaves:
    """The arguments that take a gradient, by name, while they do."""

    def __init__(
        self, attention: Attention, given: Arguments, constant: Sequence[str], wanted: bool
    ) -> None:
        self.tensors = {
            name: x
            for name, x in given.items()
            if wanted and name not in constant and isinstance(x, Tensor) and x.is_floating_point()
        }

    def __enter__(self) -> dict[str, Tensor]:
        for tensor in self.tensors.values():
            tensor.requires_grad_()
        return self.tensors

    def __exit__(self, *_: object) -> None:
        for tensor in self.tensors.values():
            tensor.requires_grad_(False)


def _task(attention: Attention, given: Arguments, leaves: Mapping[str, Tensor]) -> Task:
    """What peers are made from: activations change, parameters where they are learned."""
    activations = {
        decl.name
        for decl in attention.spec.decls
        if decl.kind is ast.Kind.FLOAT and decl.form not in (ast.Form.PARAM, ast.Form.CONST)
    }
    return Task(attention.spec, attention.bind(**given), frozenset(activations | set(leaves)))


def _pairs(task: Task) -> int | None:
    sizes = task.bound.sizes
    if task.bound.device.type == "cpu" and sizes["i"] * sizes["j"] > _COUNTED:
        return None
    try:
        return task.pairs()
    except Unfit:
        return None


def _rows(
    attention: Attention,
    request: Request,
    given: Arguments,
    task: Task,
    leaves: Mapping[str, Tensor],
) -> Iterator[Row]:
    """Ours, then every implementation asked for."""
    device = request.shape.device
    asked = [one for name in request.against for one in names(name, device)]
    made: dict[str, Callable[[], Peer]] = {OURS: lambda: Peer(OURS, _ours(attention, given))}
    made |= {name: _maker(name, task) for name in asked}
    upstream = _upstream(task) if leaves else None
    ready: dict[str, _Ready] = {}
    rows: dict[str, Row] = {}
    for name, make in made.items():
        try:
            ready[name] = _Ready(make, leaves, upstream, device, request.timed)
            if name == OURS and (wrong := problem(attention, request.shape)):
                raise Wrong(wrong)
            ready[name].alike(ready[OURS], _ALIKE[request.shape.dtype])
        except Exception as error:  # one that does not run must not hide the others
            ready.pop(name, None)
            if name == OURS:
                raise
            rows[name] = Row(name, why=_first_line(error))
    ready[OURS].result = ()
    if not request.timed:
        yield from (Row(name, bytes=one.bytes) for name, one in ready.items())
        return
    calls = {name: one.run for name, one in ready.items()}
    about = {name: one.last_ms for name, one in ready.items()}
    times = rounds(calls, device, seconds=request.seconds, limit=request.limit, about=about)
    for name, one in ready.items():
        rows[name] = Row(
            name,
            spread(times[name]),
            None if name == OURS else ratios(times[OURS], times[name]),
            one.bytes,
            one.prepare_ms,
            one.first_ms,
            len(times[name]),
            one.peer.note,
        )
    yield from (rows[name] for name in made)


def _upstream(task: Task) -> Tensor | None:
    """A gradient of the output, the same in every dtype; None where there is no output."""
    spec, sizes = task.spec, task.evaluator().sizes
    if spec.output is None:
        return None
    shape = [sizes[axis] for axis in ("b", "h", spec.token, spec.channel)]
    generator = torch.Generator(task.bound.device).manual_seed(1)
    random = torch.randn(shape, generator=generator, device=task.bound.device)
    return random.to(torch.bfloat16).to(task.bound.dtype)


def _maker(name: str, task: Task) -> Callable[[], Peer]:
    return lambda: peer(name, task)


class _Ready:
    """An implementation that has been prepared and called: once for its memory and, where it is to
    be timed, once before, since a first call compiles."""

    def __init__(
        self,
        make: Callable[[], Peer],
        leaves: Mapping[str, Tensor],
        upstream: Tensor | None,
        device: str,
        timed: bool,
    ) -> None:
        prepared: list[Peer] = []
        self.prepare_ms = first(lambda: prepared.append(make()), device)
        (self.peer,) = prepared
        self.leaves = tuple(leaves.values())
        self.upstream = upstream
        self.result: tuple[Tensor | None, ...] = ()
        self.device, self.last_ms = device, 0.0
        if timed:
            self._keep()
        self.first_ms = self.last_ms
        self.result = ()
        peak = Memory(device).peak(self._keep)
        self.bytes = None if peak is None else peak + self.peer.bytes

    def _keep(self) -> None:
        results: list[tuple[Tensor | None, ...]] = []
        self.last_ms = first(lambda: results.append(self.run()), self.device)
        (self.result,) = results

    def run(self) -> tuple[Tensor | None, ...]:
        """The output, and with leaves their gradients for one random upstream gradient."""
        if not self.leaves:
            with torch.no_grad():
                return (self.peer.call(),)
        out = self.peer.call()
        outer = torch.ones_like(out) if self.upstream is None else self.upstream.to(out.dtype)
        found = torch.autograd.grad(out, self.leaves, outer, allow_unused=True)
        return (out.detach(), *found)

    def alike(self, ours: _Ready, share: float) -> None:
        """Raise `Unfit` where the results are not those of `ours`; they are dropped then."""
        for got, want in zip(self.result, ours.result, strict=True):
            if got is None or want is None:
                continue
            error, size = (got.double() - want.double()).abs().max(), want.double().abs().max()
            if not bool(error <= share * size):
                raise Unfit(f"its results differ from ours by {float(error / size):.1e}")
        if self is not ours:
            self.result = ()


def _ours(attention: Attention, given: Arguments) -> Callable[[], Tensor]:
    """Our output, or where there is none what is returned, in a row."""
    if attention.spec.output is not None:
        return lambda: attention(**given)

    def call() -> Tensor:
        _, returned = attention(**given, extras=True)
        return torch.cat([t.flatten() for t in returned.values() if t.is_floating_point()])

    return call


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
