"""The rule that tells a right kernel from a wrong one, and one case held against it.

Every result is computed three times: by the kernel, by plain PyTorch in the kernel's own dtype,
and by the reference in float64. The kernel may be off by twice as much as plain PyTorch is
(gradients: three times), plus a few units in the last place; in float32 its relative error must
be below 1e-5 besides.

Two numbers a row stand between a softmax and its gradients: sum(d_out * out) and the log-sum-exp,
which a kernel takes from memory and plain PyTorch never rounds. What a rounding of the first
changes is the gradient of the log-sum-exp with that rounding as upstream gradient; a rounding of
the second scales a row of weights. The rule allows for one rounding of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.reference import evaluate
from attnspec.runtime.verify_case import Call, Case, arguments, leaves, widened

if TYPE_CHECKING:
    from attnspec.runtime.api import Attention

ULPS = 4.0
RELATIVE = 1e-5
DOUBLE = 1e-11


class Impossible(Exception):
    """The spec's facts leave no arguments for a case."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case gave: the error of every result over what is allowed, and what was wrong."""

    ratios: Mapping[str, float]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """Output, returns and gradients by name (`y`, `lse`, `d q`, ...)."""

    values: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    shifts: Mapping[str, Tensor]  # what roundings of a row's two numbers change, over the unit


def hold(
    attention: Attention, case: Case, backend: str, device: torch.device | str = "cpu"
) -> Outcome:
    """Run one case; `Impossible` when its arguments cannot be found."""
    try:
        call = arguments(attention, case, torch.device(device))
    except AttnError as error:
        raise Impossible(str(error)) from None
    exact_call = widened(call, torch.float64)
    bound = attention.bind(**exact_call)
    found = evaluate(attention.spec, bound)
    upstream = _upstream(_named(found.output, found.extras), case)
    exact = _results(found.output, found.extras, exact_call, upstream, shifts=True)

    plain_call = widened(call, next(iter(leaves(call).values())).dtype)
    bound = attention.bind(**plain_call)
    found = evaluate(attention.spec, bound, bound.dtype)
    plain = [_results(found.output, found.extras, plain_call, upstream)]
    if case.fill == "large":
        # one row decides the error there: that of inputs some roundings away counts as plain, too
        near_call = widened(call, torch.float64, near=4 * torch.finfo(bound.dtype).eps)
        found = evaluate(attention.spec, attention.bind(**near_call))
        plain.append(_results(found.output, found.extras, near_call, upstream))

    with poisoned():
        output, extras = attention(**call, extras=True, backend=backend)
        ours = _results(output, extras, call, upstream)
    hosted = any(stage.lowering == "host" for stage in attention.plan.stages)
    if case.fill == "nan_query" or (case.fill == "unseen_nan" and hosted):
        # NaN times a gradient of 0 is NaN in what PyTorch differentiates
        ours, exact = replace(ours, gradients={}), replace(exact, gradients={})
    return _judge(ours, plain, exact, bound.dtype)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill every fresh uninitialised tensor with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


def _named(output: Tensor | None, extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return ({} if output is None else {"y": output}) | dict(extras)


def _upstream(values: Mapping[str, Tensor], case: Case) -> dict[str, Tensor]:
    """A random gradient of every float result; 0 where the result is not finite."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    found = {}
    for name, value in values.items():
        if value.is_floating_point():
            random = torch.randn(value.shape, generator=generator).to(torch.bfloat16)
            random = random.to(value.device, torch.float64)
            found[name] = torch.where(value.detach().isfinite(), random, 0.0)
    return found


def _results(
    output: Tensor | None,
    extras: Mapping[str, Tensor],
    call: Call,
    upstream: Mapping[str, Tensor],
    shifts: bool = False,
) -> Results:
    values = _named(output, extras)
    outer = {n: g for n, g in upstream.items() if n in values and g.shape == values[n].shape}
    moved: dict[str, Tensor] = {}
    if shifts and output is not None and "lse" in upstream:
        moved = _shifts(values, call, upstream)
    gradients = _gradients(values, call, outer)
    return Results({n: v.detach() for n, v in values.items()}, gradients, moved)


def _shifts(
    values: Mapping[str, Tensor], call: Call, upstream: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    lse, output = values["lse"], values["y"]
    product = (output * upstream["y"]).detach().abs().sum(-1)
    if product.shape != lse.shape:
        return {}
    known = torch.where(lse.isfinite() & product.isfinite(), 1.0, 0.0)
    of_sum = {"lse": (product + upstream["lse"].abs()).nan_to_num() * known}
    size = lse.detach().abs().nan_to_num(0.0, 0.0, 0.0)
    of_scale = {"y": upstream["y"] * size[..., None], "lse": upstream["lse"] * size}
    one, two = _gradients(values, call, of_sum), _gradients(values, call, of_scale)
    return {name: one[name].abs() + two[name].abs() for name in one}


def _gradients(
    values: Mapping[str, Tensor], call: Call, outer: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Gradient of every leaf, named `d leaf`; 0 where nothing flows."""
    inputs = leaves(call)
    given = {n: g.to(values[n].dtype) for n, g in outer.items() if values[n].requires_grad}
    found: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if given and inputs:
        found = torch.autograd.grad(
            [values[n] for n in given],
            list(inputs.values()),
            list(given.values()),
            allow_unused=True,
            retain_graph=True,
        )
    return {
        f"d {name}": torch.zeros_like(x) if g is None else g
        for (name, x), g in zip(inputs.items(), found, strict=True)
    }


def _judge(ours: Results, plain: Sequence[Results], exact: Results, dtype: torch.dtype) -> Outcome:
    ratios: dict[str, float] = {}
    problems: list[str] = []
    if set(ours.values) != set(exact.values):
        problems.append(f"returns {sorted(ours.values)}, expected {sorted(exact.values)}")
    largest = max((_largest(g) for g in exact.gradients.values()), default=0.0)
    for name, want in [*exact.values.items(), *exact.gradients.items()]:
        gradient = name in exact.gradients
        got = ours.gradients[name] if gradient else ours.values.get(name)
        others = [(p.gradients if gradient else p.values)[name] for p in plain]
        if got is None:
            continue
        if got.shape != want.shape:
            problems.append(f"{name}: shape {list(got.shape)}, expected {list(want.shape)}")
        elif not want.is_floating_point():
            if not torch.equal(got, want):
                problems.append(f"{name}: differs")
        else:
            shift = exact.shifts.get(name, torch.zeros_like(want)) if gradient else None
            ratio, text = _compare(got, others, want, dtype, shift, largest if gradient else 0.0)
            ratios[name] = ratio
            problems += [f"{name}: {text}"] if text else []
    problems += _empty_rows(ours, exact)
    return Outcome(ratios, tuple(problems))


def _largest(x: Tensor) -> float:
    x = x[x.isfinite()].abs()
    return float(x.max()) if x.numel() else 0.0


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt()) if x.numel() else 0.0


def _compare(
    got: Tensor,
    plain: Sequence[Tensor],
    want: Tensor,
    dtype: torch.dtype,
    shift: Tensor | None,
    size: float,
) -> tuple[float, str]:
    """(error over what is allowed, what is wrong). For gradients `shift` is what a rounding of
    every row's numbers changes, and `size` that of the largest of all."""
    gradient = shift is not None
    expected = want.to(got.dtype).double()  # what is too large for the dtype is infinite
    got, want, others = got.double(), want.double(), [x.double() for x in plain]
    inside = expected.isfinite()
    if not gradient:
        # which values are infinite may hang on a rounding: as in plain PyTorch is right, too
        wrong = ~(_alike(got, expected) | _alike(got, others[0]))
        if bool(wrong.any()):
            place = _first(wrong)
            return math.inf, f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
        inside = inside & got.isfinite()
    error = torch.where(inside, (got - want).abs(), 0.0)
    other = torch.stack([torch.where(inside, (x - want).abs(), 0.0) for x in others])
    if not bool(error.isfinite().all()):
        place = _first(~error.isfinite())
        return math.inf, f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
    ulp = torch.finfo(dtype).eps
    top = _largest(torch.where(inside, want, 0.0))
    if shift is not None:
        top += _largest(torch.where(inside, shift, 0.0))
    tiny = ulp * (ULPS * top + size) + torch.finfo(dtype).tiny
    honest = float(other.max()) if other.numel() else 0.0
    if dtype is torch.float64:  # where plain PyTorch is the reference itself
        honest = DOUBLE * (top + size)
    if not math.isfinite(honest):  # plain PyTorch overflows where the kernel need not
        honest = 16 * ulp * top
    if honest > top / 2 > 0:  # plain PyTorch is wrong altogether: nothing to be learnt here
        return 0.0, ""
    allowed = (3 if gradient else 2) * honest + tiny
    worst = float(error.max()) if error.numel() else 0.0
    if worst > allowed:
        place = _first(error == worst)
        return worst / allowed, (
            f"at {place}: {_at(got, place)}, expected {_at(want, place)}"
            f" (plain PyTorch is off by {honest:.1e} at most)"
        )
    if dtype is torch.float32 and error.numel():
        limit = (
            max(RELATIVE * _rms(torch.where(inside, want, 0.0)), 3 * max(_rms(x) for x in other))
            + tiny
        )
        if _rms(error) > limit:
            return worst / allowed, f"relative error {_rms(error):.1e}, limit {limit:.1e}"
    return worst / allowed, ""


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Where both are finite, both NaN, or the same infinity."""
    return (x == y) | (x.isfinite() & y.isfinite()) | (x.isnan() & y.isnan())


def _first(where: Tensor) -> tuple[int, ...]:
    return tuple(int(n) for n in where.nonzero()[0])


def _at(x: Tensor, place: tuple[int, ...]) -> str:
    return f"{float(x[place]):.6g}"


def _empty_rows(ours: Results, exact: Results) -> list[str]:
    """Rows without a pair: output and gradients that the reference has as 0 are 0 exactly."""
    lse = exact.values.get("lse")
    if lse is None or lse.dim() != 3:
        return []
    empty = lse.isneginf()
    named: list[tuple[str, Any, Any]] = [("y", ours.values.get("y"), exact.values.get("y"))]
    named += [(n, ours.gradients[n], exact.gradients[n]) for n in exact.gradients]
    problems = []
    for name, got, want in named:
        if got is None or want is None or want.dim() != 4 or want.shape[:3] != empty.shape:
            continue
        if name not in ("y", "d q"):
            continue
        zero = empty[..., None] & (want == 0)
        if bool((got[zero] != 0).any()):
            problems.append(f"{name}: not 0 in a row without a pair")
    return problems
