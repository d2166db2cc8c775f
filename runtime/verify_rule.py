"""One case of a kernel held against the reference.

Every result is computed three times: by the kernel, by plain PyTorch in the kernel's own dtype,
and by the reference in float64.

Two numbers a row stand between a softmax and its gradients: sum(d_out * out) and the log-sum-exp,
which a kernel takes from memory and plain PyTorch never rounds. What a rounding of the first
changes is the gradient of the log-sum-exp with that rounding as upstream gradient; a rounding of
the second scales a row of weights. The rule allows for one rounding of each, and where there are
several weights for what a rounding of both numbers of every softmax among them changes; of an
entmax these are the threshold and its gradient. Gradients of two passes that cancel each other are
rounded before they are added: so is what flows back into every sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import Bound
from attnspec.runtime.blocked import limited
from attnspec.runtime.reductions import Rounding
from attnspec.runtime.reference import Evaluator, evaluate
from attnspec.runtime.verify_case import Call, Case, arguments, leaves, widened
from attnspec.runtime.verify_compare import ULPS, compare, largest

if TYPE_CHECKING:
    from attnspec.runtime.api import Attention

NEIGHBOURS = 8  # problems near a case, and roundings, by which its condition is judged
_KINKS = {"abs", "min", "max", "clamp", "relu", "leaky_relu", "elu", "where", "floor", "ceil"}


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
    exact = _results(found.output, found.extras, exact_call, upstream)
    shifts = _shifts(exact_call, found.output, _lse(attention.spec, bound), upstream)
    exact = replace(exact, shifts=shifts)

    plain_call = widened(call, next(iter(leaves(call).values())).dtype)
    bound = attention.bind(**plain_call)
    found = evaluate(attention.spec, bound, bound.dtype)
    plain = [_results(found.output, found.extras, plain_call, upstream)]
    pairs = math.prod(bound.sizes.get(axis, 1) for axis in "bhij")
    with poisoned(), limited(max(1, pairs // 8)):
        output, extras = attention(**call, extras=True, backend=backend)
        ours = _results(output, extras, call, upstream)
    hosted = any(stage.lowering == "host" for stage in attention.plan.stages)
    if case.fill == "nan_query" or (case.fill == "unseen_nan" and hosted):
        # NaN times a gradient of 0 is NaN in what PyTorch differentiates
        ours, exact = replace(ours, gradients={}), replace(exact, gradients={})
    jumps = _jumps(attention.spec)
    dtype = bound.dtype
    outcome = _judge(ours, plain, exact, dtype, jumps)
    if not outcome.problems:
        return outcome
    # by luck plain PyTorch may be better than the problem's condition: so it is asked again where
    # a few roundings of the inputs lead
    plain.append(_flushed(attention, call, dtype, upstream))
    several = sum(len(found.branches) for found in attention.plan.passes) > 1
    size = 2 * torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps
    for seed in range(NEIGHBOURS):
        near_call = widened(call, dtype, 4 * torch.finfo(dtype).eps, seed)
        found = evaluate(attention.spec, attention.bind(**near_call), dtype)
        plain.append(_results(found.output, found.extras, near_call, upstream))
        if several:
            bound = attention.bind(**exact_call)
            rounding = Rounding(size, 8 * torch.finfo(dtype).eps, seed)
            found = evaluate(attention.spec, bound, rounding=rounding)
            plain.append(_results(found.output, found.extras, exact_call, upstream))
    return _judge(ours, plain, exact, dtype, jumps)


def _flushed(
    attention: Attention, call: Call, dtype: torch.dtype, upstream: Mapping[str, Tensor]
) -> Results:
    """Plain PyTorch where numbers below the smallest normal one are 0, as in kernels they may be:
    on a CPU, which can be told so."""
    near = widened(call, dtype, device="cpu")
    here = {name: x.cpu() for name, x in upstream.items()}
    torch.set_flush_denormal(True)
    try:
        found = evaluate(attention.spec, attention.bind(**near), dtype)
        results = _results(found.output, found.extras, near, here)
    finally:
        torch.set_flush_denormal(False)
    device = next(iter(upstream.values())).device if upstream else "cpu"
    values, gradients = (
        {name: x.to(device) for name, x in part.items()}
        for part in (results.values, results.gradients)
    )
    return replace(results, values=values, gradients=gradients)


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
) -> Results:
    values = _named(output, extras)
    outer = {n: g for n, g in upstream.items() if n in values and g.shape == values[n].shape}
    gradients = _gradients(values, call, outer)
    return Results({n: v.detach() for n, v in values.items()}, gradients, {})


def _lse(spec: ast.Spec, bound: Bound) -> Tensor | None:
    """The log-sum-exp of the weight's softmax over the keys, if there is one."""
    weight = spec.definition("weight")
    for node in () if weight is None else ast.walk(weight.expr):
        if isinstance(node, ast.Normalize) and node.op == "softmax" and node.axes == ("j",):
            return Evaluator(spec, bound, torch.float64).log_sum_exp(node)
    return None


def _shifts(
    call: Call, output: Tensor | None, lse: Tensor | None, upstream: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    if output is None or lse is None:
        return {}
    product = (output * upstream["y"]).detach().abs().sum(-1)
    if product.shape != lse.shape:
        return {}
    outer = upstream.get("lse", torch.zeros_like(product))
    known = torch.where(lse.isfinite() & product.isfinite(), 1.0, 0.0)
    of_sum = {"lse": (product + outer.abs()).nan_to_num() * known}
    size = lse.detach().abs().nan_to_num(0.0, 0.0, 0.0)
    of_scale = {"y": upstream["y"] * size[..., None], "lse": outer * size}
    values = {"y": output, "lse": lse}
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


def _jumps(spec: ast.Spec) -> bool:
    """Whether a derivative of the score jumps somewhere: a rounding may fall on either side."""
    return any(
        isinstance(node, ast.Apply)
        and node.op in _KINKS
        and node.kind is ast.Kind.FLOAT
        and node.free >= {"i", "j"}
        for definition in spec.defs
        for node in ast.walk(definition.expr)
    )


def _judge(
    ours: Results, plain: Sequence[Results], exact: Results, dtype: torch.dtype, jumps: bool
) -> Outcome:
    ratios: dict[str, float] = {}
    problems: list[str] = []
    if set(ours.values) != set(exact.values):
        problems.append(f"returns {sorted(ours.values)}, expected {sorted(exact.values)}")
    top = max((largest(g) for g in exact.gradients.values()), default=0.0)
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
            size = top if gradient else 0.0
            ratio, text = compare(got, others, want, dtype, shift, size, jumps and gradient)
            ratios[name] = ratio
            problems += [f"{name}: {text}"] if text else []
    problems += _empty_rows(ours, exact)
    return Outcome(ratios, tuple(problems))


def _empty_rows(ours: Results, exact: Results) -> list[str]:
    """Rows without a pair: an output that the reference has as 0 is 0 exactly; a gradient may be
    what rounding leaves, where the host reads the query as well."""
    lse = exact.values.get("lse")
    if lse is None or lse.dim() != 3:
        return []
    empty, top = lse.isneginf(), max(map(largest, exact.gradients.values()), default=0.0)
    named: list[tuple[str, Any, Any]] = [("y", ours.values.get("y"), exact.values.get("y"))]
    named += [(n, ours.gradients[n], exact.gradients[n]) for n in exact.gradients]
    problems = []
    for name, got, want in named:
        if got is None or want is None or want.dim() != 4 or want.shape[:3] != empty.shape:
            continue
        if name not in ("y", "d q"):
            continue
        zero = empty[..., None] & (want == 0)
        left = 0.0 if name == "y" else ULPS * torch.finfo(got.dtype).eps * top
        if not bool((got[zero].abs() <= left).all()):
            problems.append(f"{name}: not 0 in a row without a pair")
    return problems
