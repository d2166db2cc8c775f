"""A picture of a spec: the pairs of its mask, its weights for random inputs, and its tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from attnspec.dsl import ast
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import bind
from attnspec.runtime.reference import evaluate, initial
from attnspec.runtime.signature_of import signature
from attnspec.runtime.typical import Arguments, typical

_PAIR = ("b", "h", "i", "j")


def draw(spec: ast.Spec, output: Path, length: int) -> None:
    """Write the picture of `spec`, about `length` tokens long, to `output` (.png or .svg).

    The same spec gives the same file. AttnError where the spec has nothing over pairs.
    """
    found = list(panels(spec, length))
    if not found:
        raise AttnError(f"{spec.name} has neither a mask nor weights over pairs (i, j)")

    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {
        "svg.hashsalt": spec.name,
        "font.size": 9,
        "figure.dpi": 120,
        "image.interpolation": "nearest",
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.2 * len(found), 4.2), layout="constrained")
        axes = figure.subplots(1, len(found), squeeze=False)[0]
        for axis, (title, values) in zip(axes, found, strict=True):
            most = max(values.abs().max().item(), 1e-12)
            signed = values.min().item() < 0
            plain = title == "mask" or title.startswith("tiles")
            colours = "Greys" if plain else "RdBu_r" if signed else "magma_r"
            low = -most if signed else 0.0
            image = axis.imshow(values.numpy(), colours, vmin=low, vmax=most)
            axis.set(title=title, xlabel="key j", ylabel="query i")
            if not plain:
                figure.colorbar(image, ax=axis, shrink=0.8)
        figure.suptitle(f"{spec.name}: {spec.title}", wrap=True)
        try:
            figure.savefig(output, metadata=_no_date(output))
        except OSError as error:
            raise AttnError(f"{output} cannot be written: {error.strerror}") from None


def panels(spec: ast.Spec, length: int) -> Iterator[tuple[str, Tensor]]:
    """Title and values [M, N] of what there is to draw, of the first batch element and head."""
    given = typical(spec, batch=1, length=length)
    if spec.mask is not None:
        mask = _over_pairs(spec, given, spec.mask)
        yield "mask", mask
        yield tiles(mask, 1 << max(length.bit_length() - 4, 0))
    weight = spec.definition("weight")
    if weight is not None and set(weight.axes) <= set(_PAIR):
        read: ast.Expr = ast.Read("weight", tuple(map(_index, weight.axes)), kind=ast.Kind.FLOAT)
        if spec.mask is not None:
            none = ast.Literal(0.0, kind=ast.Kind.FLOAT)
            read = ast.Apply("where", (spec.mask, read, none), kind=ast.Kind.FLOAT)
        yield "weight", _over_pairs(spec, given, read)
    elif spec.states and spec.output is not None and spec.decl("v") is not None:
        yield "output of a unit value at j", _response(spec, given)


def tiles(mask: Tensor, side: int) -> tuple[str, Tensor]:
    """Title and class of every pair's tile of `side` x `side`: 0 empty, 1 partial, 2 full."""
    blocks = [[part.mean() for part in row.split(side, 1)] for row in mask.split(side)]
    share = torch.stack([torch.stack(row) for row in blocks])
    kinds = (share > 0).double() + (share == 1).double()
    counts = [int((kinds == kind).sum()) for kind in (2, 1, 0)]
    title = "tiles of {0} x {0}: {1} full, {2} partial, {3} empty".format(side, *counts)
    spread = kinds.repeat_interleave(side, 0).repeat_interleave(side, 1)
    return title, spread[: mask.shape[0], : mask.shape[1]]


def _over_pairs(spec: ast.Spec, given: Arguments, expr: ast.Expr) -> Tensor:
    """`expr` over (i, j)."""
    asked = ast.Return("drawn", _PAIR, expr)
    spec = replace(spec, output=None, returns=(asked,))
    return _evaluate(spec, given)["drawn"][0, 0]


def _response(spec: ast.Spec, given: Arguments) -> Tensor:
    """What a recurrence makes of values that tell the keys apart: channel e of key j is (e = j)."""
    value = given["v"]
    assert isinstance(value, Tensor)
    keys = value.shape[2]
    given = typical(spec, batch=1, length=keys, value_channels=keys)
    unit = torch.eye(keys, dtype=value.dtype).expand(*value.shape[:2], keys, keys)
    return _evaluate(spec, {**given, "v": unit})[""][0, 0]


def _evaluate(spec: ast.Spec, given: Arguments) -> dict[str, Tensor]:
    """What `spec` gives by the reference; its output stands under the name ""."""
    bound = bind(signature(spec), (), given, lambda name, bound: initial(spec, name, bound))
    with torch.no_grad():
        outputs = evaluate(spec, bound)
    found = {name: tensor.double() for name, tensor in outputs.extras.items()}
    return found if outputs.output is None else {**found, "": outputs.output}


def _index(axis: str) -> ast.Expr:
    return ast.Index(axis, kind=ast.Kind.INT)


def _no_date(output: Path) -> dict[str, None]:
    return {"Date": None} if output.suffix == ".svg" else {"Software": None}
