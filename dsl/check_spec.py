"""Assembling the spec: masks, facts, returns and the output."""

from __future__ import annotations

from collections.abc import Iterable

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Decl, Def, Expr, Grid, Kind, Read, Return, Role, Spec, walk
from attnspec.dsl.check_decl import axes, finish
from attnspec.dsl.check_definitions import Parts, check_listed, head_scope, written_axes
from attnspec.dsl.check_expr import Elaborator
from attnspec.dsl.check_masked import lacking, missing
from attnspec.dsl.check_names import TOKENS, Names
from attnspec.dsl.check_report import Failed
from attnspec.dsl.check_scope import Scope
from attnspec.dsl.check_sides import paired
from attnspec.dsl.check_size import check_size
from attnspec.dsl.check_usage import roots
from attnspec.dsl.span import Span

_OPERANDS = frozenset({"query", "key", "value"})


def mask_of(parts: Parts) -> Expr | None:
    """The conjunction of the mask lines."""
    found = []
    scope = Scope(frozenset({"i", "j"}), masked=False)
    for mask in parts.names.masks:
        core = _fact(parts.el, mask.expr, scope, "a mask")
        if core is not None:
            found.append(core)
    return build.conjunction(tuple(found))


def requires_of(parts: Parts) -> tuple[Expr, ...]:
    """The facts of the `require` lines."""
    scope = Scope(frozenset({"i", "j", "t", "n"}), masked=False)
    found = [_fact(parts.el, r.expr, scope, "a requirement") for r in parts.names.requires]
    return tuple(core for core in found if core is not None)


def _fact(el: Elaborator, node: s.Expr, scope: Scope, what: str) -> Expr | None:
    try:
        core = el.statement(node, scope)
        check_size(el, core, node.span)
    except Failed:
        return None
    if core.kind is not Kind.BOOL:
        el.report.error(
            "A105", f"{what} is a bool", node.span, f"this is {core.kind}", "compare it: `… > 0`"
        )
        return None
    if axes := el.vector_axes(core, scope):
        el.report.error(
            "A108",
            f"{what} is a scalar",
            node.span,
            f"this is over {', '.join(f'`{axis}`' for axis in axes)}",
            "reduce it, for instance with `all(c, …)`",
        )
        return None
    return core


def returns_of(parts: Parts) -> tuple[Return, ...]:
    """The further outputs."""
    el = parts.el
    found = []
    for name, definition in parts.names.definitions.items():
        if not isinstance(definition, s.ReturnStmt) or name in el.failed:
            continue
        try:
            axes = written_axes(el, definition.axes, False, definition.name_span)
            _check_result_axes(el, axes, definition)
            if name in el.tensors:
                slots = el.tensors[name].slots
                index = tuple(build.index(slot.axis) for slot in slots)
                core: Expr = Read(
                    name, index, kind=el.tensors[name].kind, span=definition.name_span
                )
            else:
                core = el.statement(definition.expr, head_scope(el, axes, name))
                check_size(el, core, definition.expr.span)
            check_listed(el, core, axes, definition.expr.span, name)
            if unlisted := missing(core, axes, None, {}):
                raise _unlisted(el, name, axes, unlisted, definition.name_span)
            found.append(Return(name, axes, core, span=definition.name_span))
        except Failed:
            continue
    return tuple(found)


def _unlisted(
    el: Elaborator, name: str, axes: tuple[str, ...], unlisted: tuple[str, ...], span: Span
) -> Failed:
    return el.report.error(
        "A108",
        f"`{name}` does not list axis `{unlisted[0]}`",
        span,
        f"its value depends on `{unlisted[0]}`",
        f"write `return {name}[{', '.join([*unlisted, *axes])}]`, or reduce over it",
    )


def _check_result_axes(el: Elaborator, axes: tuple[str, ...], result: s.ReturnStmt) -> None:
    """Refuse a second index as an axis of a result: its rows would not be told apart."""
    for name in axes:
        axis = el.axis(name)
        if axis.role is Role.ALIAS and axis.family in TOKENS:
            raise el.report.error(
                "A111",
                f"`{name}` is no axis of a result",
                result.name_span,
                f"it is a second index over `{axis.root}`",
                f"write the result over `{axis.root}`",
            )


def assemble(file: s.File, parts: Parts) -> Spec | None:
    """The spec, when nothing was wrong; clauses that stand outside definitions are checked here."""
    el = parts.el
    used = parts.usage.reach(roots(parts.names))
    mask = mask_of(parts)
    requires = requires_of(parts)
    returns = returns_of(parts)
    both = paired(parts)  # after the reads of the mask have been seen
    decls = []
    for name in _decl_order(parts.names):
        definition = parts.names.definitions[name]
        assert isinstance(definition, s.Declare)
        if name not in el.tensors or (name not in used and definition.form in _OPERANDS):
            continue
        try:
            decls.append(finish(el, definition, name in both))
        except Failed:
            continue
    output, channel = _output(parts)
    _check_equal_sizes(el)
    if el.report.errors:
        return None
    outside = [e for e in (mask, output, *requires, *(r.expr for r in returns)) if e is not None]
    states = tuple(state for name, state in parts.states.items() if name in used)
    outside += [e for state in states for e in (state.init, state.step)]
    outside += [e for decl in decls for e in (decl.default, decl.where) if e is not None]
    defs = _reached(parts, outside)
    variables = _variables([*outside, *(d.expr for d in defs)])
    _check_sized(el, decls, variables)
    more = lacking(defs, mask)
    for result in returns:
        if unlisted := missing(result.expr, result.axes, mask, more):
            _unlisted(el, result.name, result.axes, unlisted, result.span)
    if el.report.errors:
        return None
    return Spec(
        name=file.name,
        title=_title(file),
        doc=file.doc,
        cites=tuple(t for c in file.statements if isinstance(c, s.Cite) for t in c.texts),
        catalog=tuple(r for c in file.statements if isinstance(c, s.Catalog) for r in c.rows),
        axes=axes(el, used | variables),
        decls=tuple(decls),
        requires=requires,
        grids=tuple(Grid(side, names) for side, names in parts.names.grids.items()),
        shared_grid=parts.names.shared_grid,
        defs=defs,
        states=states,
        mask=mask,
        causal=parts.names.causal is not None,
        output=output,
        token=parts.token,
        channel=channel,
        returns=returns,
        equal_sizes=tuple(el.equal_sizes),
        text=file.text,
        path=file.path,
    )


def _decl_order(names: Names) -> list[str]:
    """The declared tensors in call order: q, k, v, then as written."""
    declared = [n for n, d in names.definitions.items() if isinstance(d, s.Declare)]
    first = [name for name in ("q", "k", "v") if name in declared]
    return [*first, *(name for name in declared if name not in first)]


def _output(parts: Parts) -> tuple[Expr | None, str]:
    """The output and its channel axis."""
    el = parts.el
    clause = parts.names.definitions["output"]
    definition = el.defs.get("output")
    if not isinstance(clause, s.Clause) or clause.expr is None or definition is None:
        return None, ""
    tensor = el.tensors["output"]
    scope = Scope(frozenset({parts.token}))
    channels = el.vector_axes(definition.expr, scope)
    span = clause.expr.span
    if len(channels) != 1:
        el.report.error(
            "A108",
            "the output has exactly one channel axis",
            span,
            f"this is over {', '.join(f'`{axis}`' for axis in channels) or 'none'}",
            "contract the others, or write `output = none` and `return` what is meant",
        )
        return None, ""
    try:
        el.numeric(definition.expr, "the output")
    except Failed:
        return None, ""
    if not parts.mentioned("output"):
        return definition.expr, channels[0]
    index = tuple(build.index(slot.axis) for slot in tensor.slots)
    return Read("output", index, kind=tensor.kind, span=span), channels[0]


def _check_equal_sizes(el: Elaborator) -> None:
    """Refuse relabelling that can never fit."""
    for (one, other), span in el.equal_sizes.items():
        sizes = [el.sizes.get(axis) for axis in (one, other)]
        fixed = [build.constant(size) for size in sizes if size is not None]
        if len(fixed) == 2 and None not in fixed and fixed[0] != fixed[1]:
            el.report.error(
                "A108",
                f"axes `{one}` and `{other}` differ in size",
                span,
                f"{fixed[0]} and {fixed[1]}",
                "an index that relabels a channel runs over as many: give both one size",
            )


def _check_sized(el: Elaborator, decls: Iterable[Decl], used: frozenset[str]) -> None:
    """Refuse an axis whose size neither the spec nor a call would say."""
    names = el.names.axes
    given = {names[axis].root for decl in decls for axis in decl.axes if axis in names}
    for name, axis in names.items():
        known = name in given or name in el.sizes or not axis.span.end
        if axis.role is Role.CHANNEL and name in used and not known:
            el.report.error(
                "A111",
                f"nothing says how long the axis `{name}` is",
                axis.span,
                "no argument has it",
                f"give its size, as in `axis {name} = 16`, or declare an input that has it",
            )


def _reached(parts: Parts, start: Iterable[Expr]) -> tuple[Def, ...]:
    """The definitions that `start` reads, directly or not, in dependency order."""
    found: set[str] = set()
    stack = list(start)
    while stack:
        for node in walk(stack.pop()):
            if isinstance(node, Read) and node.name in parts.el.defs and node.name not in found:
                found.add(node.name)
                stack.append(parts.el.defs[node.name].expr)
    return tuple(d for name, d in parts.el.defs.items() if name in found)


def _variables(exprs: Iterable[Expr]) -> frozenset[str]:
    """The index variables that stand anywhere in `exprs`, bound ones included."""
    return frozenset(axis for expr in exprs for node in walk(expr) for axis in node.free)


def _title(file: s.File) -> str:
    """The first sentence of the docstring, else the name."""
    paragraph = " ".join(file.doc.strip().split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".") or file.name
