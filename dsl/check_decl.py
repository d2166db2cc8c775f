"""Elaborating declarations: tensors, constants, sizes, defaults and facts."""

from __future__ import annotations

from dataclasses import replace

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Apply, Axis, Decl, Expr, Form, Kind, Literal, Role, Size, Values
from attnspec.dsl.check_expr import Elaborator
from attnspec.dsl.check_index import Slot, Tensor
from attnspec.dsl.check_names import TOKENS
from attnspec.dsl.check_report import Failed, did_you_mean
from attnspec.dsl.check_scope import Scope

_TOKEN_OF = {"query": "i", "key": "j", "value": "j"}
MAX_ELEMENTS = 2**31


def declare(el: Elaborator, decl: s.Declare, row_sided: bool) -> None:
    """Make `decl` readable: a constant, or a tensor with its slots."""
    if decl.form == "const" and not decl.axes:
        el.constants[decl.name] = _constant(el, decl)
        return
    slots = []
    if decl.form in _TOKEN_OF:
        slots = [Slot("b", "b", True), Slot("h", "h", True)]
        token = _TOKEN_OF[decl.form]
        slots.append(Slot(token, token))
    for place, axis in enumerate(decl.axes):
        slots.append(_slot(el, decl, place, axis, row_sided))
    _check_axes(el, decl, slots)
    el.tensors[decl.name] = Tensor(decl.name, tuple(slots), _kind(el, decl))


def _kind(el: Elaborator, decl: s.Declare) -> Kind:
    if decl.type is not None:
        return Kind(decl.type)
    if decl.form == "const" and decl.default is not None:
        values = _values(el, decl, decl.default)
        return _kind_of(values)
    return Kind.FLOAT


def _kind_of(values: Values) -> Kind:
    if isinstance(values, tuple):
        kinds = {_kind_of(v) for v in values}
        return kinds.pop() if len(kinds) == 1 else Kind.FLOAT
    return build.lit(values).kind


def _slot(el: Elaborator, decl: s.Declare, place: int, axis: s.AxisSpec, rows: bool) -> Slot:
    if isinstance(axis.expr, s.Name):
        word = axis.expr.id
        if word == "n":
            return Slot("i" if rows else "j", "n")
        if word in el.names.axes:
            if el.axis(word).role is Role.ALIAS and el.axis(word).family in TOKENS:
                raise el.report.error(
                    "A111",
                    f"`{word}` is a second index, not an axis to declare",
                    axis.span,
                    f"it runs over `{el.axis(word).root}`",
                    f"declare the tensor over `{el.axis(word).root}` and read it at `{word}`",
                )
            return Slot(word, word, skipped=word in ("b", "h"))
        if word not in el.constants and word not in el.names.sizes and word not in el.failed:
            raise el.report.error(
                "A101",
                f"unknown axis `{word}`",
                axis.span,
                "not declared",
                did_you_mean(
                    word,
                    [*el.names.axes, *el.constants],
                    f"declare it with `axis {word}` or `axis {word} = 64`",
                ),
            )
    name = f"{decl.name}.{place}"
    el.sizes[name] = size(el, axis.expr)
    return Slot(name, name)


def _check_axes(el: Elaborator, decl: s.Declare, slots: list[Slot]) -> None:
    axes = [slot.axis for slot in slots]
    for place, axis in enumerate(axes):
        if axis in axes[:place]:
            raise el.report.error(
                "A111",
                f"axis `{axis}` stands twice in `{decl.name}`",
                decl.name_span,
                "an axis has one place in a tensor",
                f"declare a second index for it: `index {axis}2 = {axis}`",
            )
    if decl.form in _TOKEN_OF and (len(axes) != 4 or not el.axis(axes[3]).is_channel):
        raise el.report.error(
            "A111",
            f"a {decl.form} has one channel axis",
            decl.name_span,
            f"`{decl.name}` is declared over [{', '.join(axes[3:])}]",
            f"write `{decl.form} {decl.name}[{'e' if decl.form == 'value' else 'd'}]`;"
            " `b`, `h` and the token axis are implied",
        )


def size(el: Elaborator, node: s.Expr) -> Expr:
    """The size of an axis: arithmetic on literals, consts and sizes."""
    expr = el.statement(node, Scope())
    fixed = build.constant(expr)
    if fixed is not None:
        expr = build.lit(fixed, node.span)
    if expr.kind is not Kind.INT or not _is_arithmetic(expr):
        raise el.report.error(
            "A111",
            "not a size",
            node.span,
            "a size is an int made of literals, consts and sizes",
            "write for instance `64`, `2 * w + 1` with a const `w`, or `D // 2`",
        )
    if fixed is not None and not 1 <= fixed <= MAX_ELEMENTS:
        raise el.report.error(
            "A110" if fixed > 1 else "A111",
            "size out of range",
            node.span,
            f"this is {fixed}",
            f"a size lies between 1 and {MAX_ELEMENTS}",
        )
    return expr


def _is_arithmetic(expr: Expr) -> bool:
    if isinstance(expr, Apply):
        return all(_is_arithmetic(arg) for arg in expr.args)
    return isinstance(expr, Literal | Size)


def _constant(el: Elaborator, decl: s.Declare) -> Literal:
    """The value of a scalar const."""
    if decl.default is None:
        raise el.report.error(
            "A111",
            f"const `{decl.name}` has no value",
            decl.name_span,
            "a const is fixed in the text",
            f"write `const {decl.name} = …`",
        )
    expr = el.statement(decl.default, Scope())
    value = build.constant(expr)
    if value is None:
        raise el.report.error(
            "A111",
            f"const `{decl.name}` has no fixed value",
            decl.default.span,
            "not arithmetic on literals and consts",
            f"write a number, or use `let {decl.name} = …`",
        )
    return _literal(
        el, value, Kind(decl.type) if decl.type else build.lit(value).kind, decl.default
    )


def _literal(el: Elaborator, value: bool | int | float, kind: Kind, node: s.Expr) -> Literal:
    """`value` as a literal of `kind`."""
    given = build.lit(value).kind
    if given is Kind.INT and kind is Kind.FLOAT:
        value = float(value)
    elif given is not kind:
        raise el.report.error(
            "A105",
            "wrong type",
            node.span,
            f"declared {kind}, the value is {given}",
            f"write a value of type {kind}, or declare it `: {given}`",
        )
    return build.lit(value, node.span)


def _values(el: Elaborator, decl: s.Declare, node: s.Expr) -> Values:
    """A list, nested as deep as its tensor has axes."""
    if isinstance(node, s.ListLit):
        return tuple(_values(el, decl, item) for item in node.items)
    value = build.constant(el.statement(node, Scope()))
    if value is None:
        raise el.report.error(
            "A111",
            "not a constant",
            node.span,
            f"a list for `{decl.name}` holds numbers",
            "write literals and arithmetic on consts",
        )
    return value


def finish(el: Elaborator, decl: s.Declare, paired: bool) -> Decl:
    """The declaration with its default and its fact."""
    tensor = el.tensors[decl.name]
    axes = tuple(slot.axis for slot in tensor.slots)
    token = next((slot.axis for slot in tensor.slots if slot.own == "n"), "n")
    scope = Scope(bound=frozenset(axes), masked=False, n=token)
    default: Expr | None = None
    values: Values | None = None
    if isinstance(decl.default, s.ListLit):
        values = _values(el, decl, decl.default)
        _check_shape(el, decl, values, tensor)
        values = _as_kind(values, tensor.kind)
    elif decl.default is not None:
        default = _default(el, decl, tensor, scope)
    elif decl.form == "const":
        raise el.report.error(
            "A111",
            f"const `{decl.name}` has no value",
            decl.name_span,
            "a const is fixed in the text",
            f"write `const {decl.name}[…] = [1, 2, 4]`",
        )
    where = None
    if decl.where is not None:
        where = el.statement(decl.where, scope)
        if where.kind is not Kind.BOOL or el.vector_axes(where, scope):
            raise el.report.error(
                "A105",
                "a fact is a bool",
                decl.where.span,
                f"this is {where.kind}",
                f"compare it: `where {decl.name} > 0`",
            )
    form = Form(decl.form)
    return Decl(
        decl.name, form, axes, tensor.kind, default, values, where, paired, span=decl.name_span
    )


def _default(el: Elaborator, decl: s.Declare, tensor: Tensor, scope: Scope) -> Expr:
    assert decl.default is not None
    if decl.form == "input" and tensor.slots:
        raise el.report.error(
            "A111",
            "only scalar inputs have a default",
            decl.default.span,
            f"`{decl.name}` has axes",
            "leave the default out, or declare a `param`",
        )
    expr = el.statement(decl.default, scope)
    value = build.constant(expr)
    if value is not None:
        return _literal(el, value, tensor.kind, decl.default)
    allowed = expr.kind is tensor.kind or (expr.kind is Kind.INT and tensor.kind is Kind.FLOAT)
    if not allowed or el.vector_axes(expr, scope):
        raise el.report.error(
            "A105",
            "wrong type",
            decl.default.span,
            f"`{decl.name}` is {tensor.kind} over its axes, this is {expr.kind}",
            "write a value of the declared type over the declared axes",
        )
    return expr


def _as_kind(values: Values, kind: Kind) -> Values:
    """A list whose ints are floats where its tensor is."""
    if isinstance(values, tuple):
        return tuple(_as_kind(item, kind) for item in values)
    return float(values) if kind is Kind.FLOAT else values


def _check_shape(el: Elaborator, decl: s.Declare, values: Values, tensor: Tensor) -> None:
    """Refuse a ragged list, one of the wrong depth, size or type."""
    assert decl.default is not None

    def shape(part: Values) -> tuple[int, ...] | None:
        if not isinstance(part, tuple):
            return ()
        inner = {shape(item) for item in part}
        first = inner.pop() if len(inner) == 1 else None
        return None if first is None else (len(part), *first)

    found = shape(values)
    sizes = [el.sizes.get(slot.axis) for slot in tensor.slots]
    fits = found is not None and len(found) == len(sizes)
    if fits and found is not None:
        for length, expected in zip(found, sizes, strict=True):
            fixed = build.constant(expected) if expected is not None else None
            fits = fits and fixed in (None, length)
    kind = _kind_of(values)
    if fits and (kind is tensor.kind or (tensor.kind, kind) == (Kind.FLOAT, Kind.INT)):
        return
    raise el.report.error(
        "A111",
        f"the list does not fit `{decl.name}`",
        decl.default.span,
        f"a {kind} list of shape {found}" if found is not None else "a ragged list",
        f"write a list of {tensor.kind} with one level for each of its {len(sizes)} axes",
    )


def axes(el: Elaborator, used: frozenset[str]) -> tuple[Axis, ...]:
    """Every axis with its size: the built-in ones, the declared, the anonymous, the joined."""
    always = ("b", "h", "i", "j", "d", "e")
    found = []
    for name, axis in el.names.axes.items():
        if name in always or name in used or axis.span.end:
            base = axis.base if axis.role in (Role.ALIAS, Role.BLOCK) else None
            found.append(Axis(name, axis.role, el.sizes.get(name), base))
    for name, length in el.sizes.items():
        if name not in el.names.axes:
            found.append(Axis(name, Role.CHANNEL, length))
    for name, parts in el.concats.items():
        found.append(Axis(name, Role.CONCAT, parts=parts))
    return tuple(found)


def axis_sizes(el: Elaborator, name: str) -> None:
    """Elaborate the size of a declared axis, or the length of a block."""
    axis = el.names.axes[name]
    if axis.size is not None:
        try:
            el.sizes[name] = size(el, axis.size)
        except Failed:
            el.failed.add(name)


def literal_state(kind: Kind) -> Literal:
    """What a state starts at when nothing is said."""
    return build.lit(False) if kind is Kind.BOOL else replace(build.lit(0.0), kind=Kind.FLOAT)
