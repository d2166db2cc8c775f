"""The `where` and `require` facts of a spec, held against the arguments of a call."""

from __future__ import annotations

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.axes import side
from attnspec.runtime.bind import Bound
from attnspec.runtime.named import Named
from attnspec.runtime.reference import Evaluator


def facts_hold(spec: ast.Spec, bound: Bound) -> None:
    """AttnError names the first fact that is false and a place where it is. NaN breaks no fact."""
    with torch.no_grad():
        for decl in spec.decls:
            if decl.where is not None and decl.form is not ast.Form.CONST:
                for part in (0, 1) if decl.paired else (0,):
                    _argument_holds(spec, decl, decl.where, one_part(spec, decl, bound, part))
        if not spec.requires:
            return
        evaluator = Evaluator(spec, bound, torch.float64)
        for fact in spec.requires:
            for claim in ast.conjuncts(fact):
                value = evaluator(claim)
                if not bool(value.tensor.all()):
                    at = ", ".join(f"{d} = {n}" for d, n in _first(value, evaluator))
                    place = f" at {at}" if at else ""
                    raise AttnError(f"{spec.name}: requires {_text(spec, claim)}, false{place}")


def one_part(spec: ast.Spec, decl: ast.Decl, bound: Bound, part: int) -> Bound:
    """`bound` as if the paired argument's one part stood on both sides."""
    value = bound.tensors.get(decl.name)
    if not isinstance(value, tuple):
        return bound
    tensors = {**bound.tensors, decl.name: (value[part], value[part])}
    own = "i" if part == 0 else "j"
    other = next(s for a in decl.axes if (s := side(spec, a)) is not None)
    sizes = {**bound.sizes, other: bound.sizes[own]}
    start = bound.start(own)
    if other == "i":
        return bound._replace(tensors=tensors, sizes=sizes, q_start=start)
    return bound._replace(tensors=tensors, sizes=sizes, k_start=start)


def _argument_holds(spec: ast.Spec, decl: ast.Decl, fact: ast.Expr, bound: Bound) -> None:
    evaluator = Evaluator(spec, bound, torch.float64)
    given = bound.tensors.get(decl.name)
    for claim in ast.conjuncts(fact):
        value = evaluator(claim)
        good = value.tensor
        tensor = given[0] if isinstance(given, tuple) else given
        if tensor is not None and value.dims and tensor.is_floating_point():
            unknown = Named(tensor.isnan(), decl.axes)
            good = value.over(decl.axes) | unknown.tensor
            value = Named(good, decl.axes)
        if bool(good.all()):
            continue
        got, place = str(bound.scalars.get(decl.name, "")), ""
        if tensor is not None:
            where = _places(good.expand(tensor.shape)) if value.dims else []
            got = str(tensor[tuple(where)].item()) if len(where) == tensor.dim() else "others"
            place = f" at {where}" if where else ""
        raise AttnError(
            f"{spec.name}: argument `{decl.name}`: expected {_text(spec, claim)}, got {got}{place}"
        )


def _places(good: Tensor) -> list[int]:
    """The indices of the first false element."""
    places: list[int] = (~good).nonzero()[0].tolist()
    return places


def _first(value: Named, evaluator: Evaluator) -> list[tuple[str, int]]:
    places = _places(value.tensor) if value.dims else []
    return [(d, n + evaluator.start(d)) for d, n in zip(value.dims, places, strict=True)]


def _text(spec: ast.Spec, fact: ast.Expr) -> str:
    """The fact as the author wrote it."""
    text = " ".join(spec.text[fact.span.start : fact.span.end].split())
    return f"`{text}`" if text else "a fact of the spec"
