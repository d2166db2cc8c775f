"""Random sizes and scalars for a call that satisfy what a spec requires of them."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.axes import expressions, root
from attnspec.runtime.bind import Bound, Number
from attnspec.runtime.extents import extent_value
from attnspec.runtime.reference import Evaluator, initial, shared_nodes
from attnspec.runtime.signature import Signature

TRIES = 3000


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sizes of every axis, the heads of keys and of values, and the scalar arguments."""

    sizes: dict[str, int]
    heads: int
    value_heads: int
    scalars: dict[str, Number]


def draw_sizes(
    spec: ast.Spec,
    called: Signature,
    rng: random.Random,
    fixed: Mapping[str, int],
    starts: Mapping[str, int],
) -> Drawn:
    """Sizes (those of `fixed` as given) and scalars; AttnError when none are found."""
    claims = [c for fact in spec.requires for c in ast.conjuncts(fact) if not _tensors(spec, c)]
    claims += [d.where for d in spec.decls if d.where is not None and _scalar(d)]
    decided = [c for c in claims if _decided(spec, c, fixed)]  # no other draw makes them true
    literals = sorted({n for c in claims for n in _integers(c)})
    marks = sorted(_integers(spec.mask)) if spec.mask is not None else []
    widths, shared = channel_steps(spec, called), shared_nodes(spec)
    for attempt in range(TRIES):
        sizes = _sizes(called, rng, fixed, literals, marks, widths, 6 + attempt // 40)
        heads = fixed.get("heads") or rng.choice(_divisors(sizes["h"]))
        if not _consistent(called, sizes, starts):
            continue
        scalars = _scalars(spec, called, rng, sizes, starts)
        bound = _bound(sizes, scalars, starts)
        evaluator = Evaluator(spec, bound, torch.float64, shared=shared)
        if all(bool(evaluator(c).tensor.all()) for c in claims):
            return Drawn(sizes, heads, fixed.get("value_heads") or heads, scalars)
        if not all(bool(evaluator(c).tensor.all()) for c in decided):
            break
    raise AttnError(f"{spec.name}: found no sizes that satisfy its facts")


def _bound(
    sizes: Mapping[str, int], scalars: Mapping[str, Number], starts: Mapping[str, int]
) -> Bound:
    device = torch.device("cpu")
    return Bound({}, scalars, sizes, starts["i"], starts["j"], torch.float64, device)


def _scalar(decl: ast.Decl) -> bool:
    return decl.form is ast.Form.INPUT and not decl.axes


def _tensors(spec: ast.Spec, expr: ast.Expr) -> bool:
    """Whether an expression reads anything but scalars."""
    for node in ast.walk(expr):
        if isinstance(node, ast.Read):
            decl = spec.decl(node.name)
            if decl is None or not (_scalar(decl) or decl.form is ast.Form.CONST):
                return True
    return False


def _integers(expr: ast.Expr) -> set[int]:
    return {
        node.value
        for node in ast.walk(expr)
        if isinstance(node, ast.Literal) and type(node.value) is int and 1 < node.value <= 256
    }


def _decided(spec: ast.Spec, expr: ast.Expr, fixed: Mapping[str, int]) -> bool:
    """Whether a claim is about numbers, fixed sizes and the tokens of fixed lengths alone."""
    for node in ast.walk(expr):
        match node:
            case ast.Literal() | ast.Apply():
                continue
            case ast.Index(axis) | ast.Size(axis) if axis in fixed:
                continue
            case ast.Read(name) if (decl := spec.decl(name)) and decl.form is ast.Form.CONST:
                continue
        return False
    return True


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def channel_steps(spec: ast.Spec, called: Signature) -> dict[str, int]:
    """What the size of a rotated axis, or of one as long, must be a multiple of."""
    steps: dict[str, int] = {}
    for whole in expressions(spec):
        for node in ast.walk(whole):
            if isinstance(node, ast.Rope):
                name = root(spec, node.axis)
                steps[name] = math.lcm(steps.get(name, 1), 2 * len(node.positions))
    for one, other in called.equal:
        if one in steps or other in steps:
            steps[one] = steps[other] = math.lcm(steps.get(one, 1), steps.get(other, 1))
    return steps


def _sizes(
    called: Signature,
    rng: random.Random,
    fixed: Mapping[str, int],
    literals: list[int],
    marks: list[int],
    steps: Mapping[str, int],
    reach: int,
) -> dict[str, int]:
    """One guess; grids and lengths grow with `reach`, or pass one of the mask's `marks`."""
    extents = dict(called.sizes)
    sizes = {n: e for n, e in extents.items() if isinstance(e, int)}
    for _, axes, shape in called.tables:
        sizes.update(zip(axes, shape, strict=True))
    sizes.setdefault("b", rng.choice((1, 2)))
    sizes.setdefault("h", rng.choice((1, 2, 4, *literals[:1])))
    some = list(dict.fromkeys(a for argument in called.arguments for a in argument.axes))
    for axis in some:  # in one order always, so that a seed gives the same sizes again
        if axis not in ("i", "j", *sizes, *extents):
            step = steps.get(axis, 2 if axis in ("d", "e") else 1)
            least = 2 if axis in ("d", "e") else 1
            guess = step * rng.randint(least, 4)
            sizes[axis] = rng.choice(literals) if literals and rng.random() < 0.2 else guess
    sizes.update({n: s for n, s in fixed.items() if n not in ("heads", "value_heads")})
    for one, other in called.equal:
        sizes[one] = sizes[other] = sizes.get(other, sizes.get(one, 4))
    sizes.setdefault("j", _past(rng, marks, 130) or rng.randint(1, 2 * reach))
    sizes.setdefault("i", sizes["j"] if rng.random() < 0.5 else rng.randint(1, 2 * reach))
    _grids(called, rng, fixed, literals, marks, reach, sizes)
    if called.square or "i" not in some:
        sizes["i"] = sizes["j"]
    elif "j" not in some:
        sizes["j"] = sizes["i"]
    return sizes


def _past(rng: random.Random, marks: list[int], most: int) -> int:
    """Now and then a length just past a number that the mask names; else 0."""
    near = [n for n in marks if n <= most]
    return rng.choice(near) + rng.randint(1, 4) if near and rng.random() < 0.15 else 0


def _grids(
    called: Signature,
    rng: random.Random,
    fixed: Mapping[str, int],
    literals: list[int],
    marks: list[int],
    reach: int,
    sizes: dict[str, int],
) -> None:
    for grid in called.grids:
        total = 1
        for name in grid.names:
            factor = rng.choice(literals) if literals and rng.random() < 0.5 else 1
            most = max(1 if rng.random() < 0.7 else 2, reach // factor)
            guess = _past(rng, marks, 20) if total <= 20 else 0
            size = fixed.get(f"{grid.side}.{name}", guess or factor * rng.randint(1, most))
            total *= size
            sizes[f"{grid.side}.{name}"] = size
            if called.shared_grid:
                sizes[f"j.{name}"] = size
        sizes[grid.side] = total
        if called.shared_grid:
            sizes["j"] = total


def _consistent(called: Signature, sizes: dict[str, int], starts: Mapping[str, int]) -> bool:
    """Complete `sizes` with those that follow; False when they contradict one another."""
    paired = {a.name for a in called.arguments if a.paired}
    if any(starts[own] for _, own in called.anchored):
        return False
    for name, own, at in called.across:
        low, high = starts[at], starts[at] + sizes[at]
        if name not in paired and not starts[own] <= low <= high <= starts[own] + sizes[own]:
            return False
    for name, extent in called.sizes:
        try:
            value = extent_value(extent, sizes, {}, starts)
        except (KeyError, ValueError):
            continue
        if value < 0 or sizes.setdefault(name, value) != value:
            return False
    return all(sizes[a] == sizes[b] for a, b in called.equal)


def _scalars(
    spec: ast.Spec,
    called: Signature,
    rng: random.Random,
    sizes: Mapping[str, int],
    starts: Mapping[str, int],
) -> dict[str, Number]:
    scalars: dict[str, Number] = {}
    for argument in called.arguments:
        if not argument.scalar:
            continue
        default = argument.default
        if argument.computed:
            computed = initial(spec, argument.name, _bound(sizes, scalars, starts))
            default = computed if isinstance(computed, bool | int | float) else None
        if isinstance(default, bool | int | float) and rng.random() < 0.4:
            scalars[argument.name] = float(default) if argument.kind == "float" else default
        elif argument.kind == "bool":
            scalars[argument.name] = rng.random() < 0.5
        elif argument.kind == "int":
            scalars[argument.name] = rng.randint(0, max(sizes["i"], sizes["j"]) + 1)
        elif isinstance(default, int | float) and default:
            near = float(default) * rng.uniform(0.5, 1.5)
            scalars[argument.name] = near if rng.random() < 0.6 else 4 * rng.random()
        else:
            scalars[argument.name] = rng.choice((rng.random(), 4 * rng.random(), rng.gauss(0, 1)))
    return scalars
