"""Elaborating indexing: which axis each index fills, coordinates, states in time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Expr, GridIndex, Index, Kind, Last, Read, Role
from attnspec.dsl.check_names import TOKENS
from attnspec.dsl.check_report import did_you_mean
from attnspec.dsl.span import Span

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator
    from attnspec.dsl.check_scope import Scope


@dataclass(frozen=True, slots=True)
class Slot:
    """One axis of a tensor.

    `axis` is the axis, `own` the index variable at which it stands when left out (None: it has no
    name), `skipped` whether indices in brackets pass it over.
    """

    axis: str
    own: str | None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Tensor:
    """Something that can be read: a declaration, a definition or a state (then with a time)."""

    name: str
    slots: tuple[Slot, ...]
    kind: Kind
    time: str | None = None
    reverse: bool = False


def read(
    el: Elaborator,
    tensor: Tensor,
    indices: tuple[s.Expr, ...],
    keywords: tuple[s.Keyword, ...],
    span: Span,
    scope: Scope,
) -> Expr:
    """`tensor[indices, keywords]` as a `Read`."""
    values = [el.expr(node, scope) for node in indices]
    given = _positions(el, tensor, values, span, scope)
    pad = _keywords(el, tensor, keywords, given, span, scope)
    index = tuple(
        given[place] if place in given else _own(el, tensor, slot, span, scope)
        for place, slot in enumerate(tensor.slots)
    )
    for slot, value in zip(tensor.slots, index, strict=True):
        _note(el, tensor, slot, value, scope)
    return Read(tensor.name, index, pad, kind=tensor.kind, span=span)


def _positions(
    el: Elaborator, tensor: Tensor, values: list[Expr], span: Span, scope: Scope
) -> dict[int, Expr]:
    """The slots that the indices in brackets fill, from the left."""
    places = [place for place, slot in enumerate(tensor.slots) if not slot.skipped]
    if tensor.time is not None:
        own = len(places) - 1
        timed = bool(values) and tensor.time in values[0].free
        if not (scope.binds(tensor.time) or timed or len(values) > own):
            places = [place for place in places if tensor.slots[place].axis != tensor.time]
    if len(values) > len(places):
        axes = ", ".join(slot.own or "…" for slot in tensor.slots if not slot.skipped)
        raise el.report.error(
            "A107",
            f"too many indices for `{tensor.name}`",
            span,
            f"{len(values)} given, it has [{axes}]",
            "leave out `b` and `h` (they follow by themselves), and name one with `h=…`"
            if values
            else "use it bare",
        )
    return dict(zip(places, values, strict=False))


def _keywords(
    el: Elaborator,
    tensor: Tensor,
    keywords: tuple[s.Keyword, ...],
    given: dict[int, Expr],
    span: Span,
    scope: Scope,
) -> Expr | None:
    """Fill in the indices given by name; the result is `pad`."""
    pad: Expr | None = None
    coordinates: dict[str, Expr] = {}
    token = next((p for p, t in enumerate(tensor.slots) if el.axis(t.axis).family in TOKENS), None)
    side = el.names.grid_side(tensor.slots[token].axis) if token is not None else None
    names = el.names.grids[side] if side else ()
    for keyword in keywords:
        value = el.expr(keyword.value, scope)
        place = next((p for p, t in enumerate(tensor.slots) if t.own == keyword.name), None)
        if keyword.name == "pad":
            pad = value
        elif keyword.name in names:
            coordinates[keyword.name] = value
        elif place is None or place in given:
            known = [*(slot.own for slot in tensor.slots if slot.own), *names, "pad"]
            raise el.report.error(
                "A107",
                f"`{tensor.name}` has no axis `{keyword.name}` left to set"
                if place is not None
                else f"`{tensor.name}` has no axis `{keyword.name}`",
                keyword.span,
                "already given" if place is not None else "not an axis of it",
                did_you_mean(
                    keyword.name, known, f"it takes {', '.join(f'`{name}=`' for name in known)}"
                ),
            )
        else:
            given[place] = value
    if coordinates and token is not None:
        if set(coordinates) != set(names) or token in given:
            raise el.report.error(
                "A107",
                "incomplete coordinates",
                span,
                f"a token stands at all of {', '.join(names)}",
                f"write `{tensor.name}[{', '.join(f'{n}=…' for n in names)}]`",
            )
        parts = tuple(coordinates[name] for name in names)
        for part in parts:
            _require_int(el, part)
        given[token] = GridIndex(parts, side or "i", kind=Kind.INT, span=span)
    if pad is not None and (pad.kind is Kind.BOOL) != (tensor.kind is Kind.BOOL):
        raise el.report.error(
            "A105",
            "wrong type",
            pad.span,
            f"`{tensor.name}` is {tensor.kind}",
            "pad with a value of the tensor's own type",
        )
    return pad


def _own(el: Elaborator, tensor: Tensor, slot: Slot, span: Span, scope: Scope) -> Expr:
    """The index of an axis that is left out."""
    if slot.axis == tensor.time:
        return _time(tensor, span, scope)
    own = scope.n if slot.own == "n" else slot.own
    if own is None or (own not in el.names.axes and "." in own and not scope.binds(own)):
        raise el.report.error(
            "A107",
            f"`{tensor.name}` has an axis without a name",
            span,
            "its index is missing",
            "write an index for every axis that has only a size",
        )
    if not scope.binds(own) and not el.axis(own).is_channel:
        axes = ", ".join(str(s.own) for s in tensor.slots if not s.skipped)
        raise el.unbound(own, span, scope, f"`{tensor.name}` stands for `{tensor.name}[{axes}]`")
    return build.index(own, span)


def _time(tensor: Tensor, span: Span, scope: Scope) -> Expr:
    """When a bare state is read: before the token in its own step, after it elsewhere."""
    assert tensor.time is not None
    if not scope.binds(tensor.time):
        return Last(tensor.time, kind=Kind.INT, span=span)
    now = build.index(tensor.time, span)
    if scope.step != tensor.name:
        return now
    return build.apply("add" if tensor.reverse else "sub", now, build.lit(1, span), span=span)


def _require_int(el: Elaborator, value: Expr) -> None:
    if value.kind is not Kind.INT:
        raise el.report.error(
            "A105",
            "an index is an int",
            value.span,
            f"this is {value.kind}",
            "use `//` for division, `floor(…)` to round, or declare the input `: int`",
        )


def _note(el: Elaborator, tensor: Tensor, slot: Slot, value: Expr, scope: Scope) -> None:
    """Check an index and keep what later decisions need."""
    _require_int(el, value)
    axis = el.axis(slot.axis)
    if axis.family in TOKENS:
        el.saw(tensor.name, slot.axis, slot.own or slot.axis, value, scope.owner)
        return
    if isinstance(value, Index) and slot.own is not None and value.axis != slot.own:
        index = el.axis(value.axis)
        counts = index.is_channel or index.family is Role.HEAD
        if counts and index.root != axis.root and axis.is_channel and "." not in slot.own:
            if _fits(el, index.root, axis.root):
                return
            el.equal_sizes.setdefault((axis.root, index.root), value.span)


def _fits(el: Elaborator, inner: str, outer: str) -> bool:
    """Whether an axis is known to be shorter than another: it then picks some of its indices."""
    sizes = [el.sizes.get(axis) for axis in (inner, outer)]
    fixed = [build.constant(size) for size in sizes if size is not None]
    match fixed:
        case [int(a), int(b)]:
            return a <= b
    return False
