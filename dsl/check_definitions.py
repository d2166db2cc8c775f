"""Elaborating definitions in order: lets with axes, clauses, states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Def, Expr, Kind, State, walk
from attnspec.dsl.check_decl import axis_sizes, declare, literal_state
from attnspec.dsl.check_expr import Elaborator
from attnspec.dsl.check_index import Slot, Tensor
from attnspec.dsl.check_names import Names
from attnspec.dsl.check_report import Failed, Report
from attnspec.dsl.check_scope import Scope
from attnspec.dsl.check_size import check_size
from attnspec.dsl.check_usage import MASK, Usage, nodes, roots
from attnspec.dsl.span import Span


@dataclass(frozen=True, slots=True)
class Guess:
    """What one elaboration takes for granted and the next corrects.

    `rows` are the names over `n` that have the rows of `i`; `kinds` what the states hold.
    """

    rows: frozenset[str] = frozenset()
    kinds: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(slots=True)
class Parts:
    """What is elaborated of a spec so far."""

    el: Elaborator
    names: Names
    usage: Usage
    guess: Guess
    states: dict[str, State] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    token: str = "i"

    def mentioned(self, name: str) -> bool:
        """Whether another definition uses `name`."""
        return any(name in said for user, said in self.usage.graph.items() if user != name)


def elaborate(names: Names, usage: Usage, report: Report, guess: Guess) -> Parts:
    """Elaborate every statement of a file under `guess`; errors go to `report`."""
    el = Elaborator(names, report, usage.reach([MASK]))
    parts = Parts(el, names, usage, guess)
    states = {n: d for n, d in names.definitions.items() if isinstance(d, s.StateDecl)}
    order, cycles = usage.order(frozenset(states))
    for cycle in cycles:
        _report_cycle(el, cycle)
    for state in states.values():
        _try(el, state.name, lambda state=state: _declare_state(parts, state))  # type: ignore[misc]
    parts.token = _token(parts, "output") or "i"
    idle = names.implied - usage.reach(roots(names))
    for name in order:
        if name in idle:
            continue
        if name in names.axes:
            axis_sizes(el, name)
        elif name in names.definitions and name not in el.failed:
            _try(el, name, lambda name=name: _define(parts, name))  # type: ignore[misc]
    for state in states.values():
        if state.name in names.steps and state.name not in el.failed:
            _try(el, "", lambda state=state: _step(parts, state))  # type: ignore[misc]
    return parts


def _try(el: Elaborator, name: str, action: Callable[[], None]) -> None:
    """Run `action`; when it fails, what uses `name` fails in silence."""
    try:
        action()
    except Failed:
        el.failed.add(name)


def _report_cycle(el: Elaborator, cycle: list[str]) -> None:
    definition = el.names.definitions.get(cycle[0])
    span = definition.name_span if definition else el.axis(cycle[0]).span
    path = " -> ".join(f"`{name}`" for name in [*cycle, cycle[0]])
    el.failed.update(cycle)
    el.report.error(
        "A109",
        f"`{cycle[0]}` is defined by itself",
        span,
        path,
        "break the cycle, or write a recurrence with `state` and `step`",
    )


def _define(parts: Parts, name: str) -> None:
    el = parts.el
    definition = parts.names.definitions[name]
    match definition:
        case s.Declare():
            declare(el, definition, name in parts.guess.rows)
        case s.Let(_, _, written, expr) if written is not None:
            _let(parts, name, written, expr, definition.name_span)
        case s.ReturnStmt(_, _, written, expr):
            tokens = tuple(axis for axis in written if axis not in ("b", "h"))
            if parts.mentioned(name):
                _let(parts, name, tokens, expr, definition.name_span)
        case s.Clause(_, _, expr) if expr is not None:
            _clause(parts, definition, expr)
        case _:
            pass


def _clause(parts: Parts, clause: s.Clause, expr: s.Expr) -> None:
    el = parts.el
    name = clause.name
    if name in ("gate", "output"):
        token = _token(parts, name) or parts.token
        bound = frozenset({"i", "t"} if token == "both" else {token})
        core = el.statement(expr, Scope(bound, masked=name not in el.unmasked))
        check_size(el, core, expr.span)
        if token == "both":
            free = core.free & bound
            if len(free) == 2:
                raise el.report.error(
                    "A108",
                    f"`{name}` depends on `i` and on `t`",
                    expr.span,
                    "one token axis is the result's",
                    "write it over `t` alone when it reads states, else over `i` alone",
                )
            token = "".join(free) or "i"
        if name == "output":
            parts.token = token
        _store(parts, name, (token,), core, expr.span)
        return
    core = el.statement(expr, Scope(frozenset({"i", "j"}), masked=name not in el.unmasked))
    written = ("i", "j") if name != "value" or "i" in core.free else ("j",)
    check_size(el, core, expr.span)
    _store(parts, name, written, core, expr.span)
    el.numeric(core, f"`{name}`")


def _token(parts: Parts, name: str) -> str | None:
    """Which of `i` and `t` a clause is about, as far as its text says: one, both or neither."""
    definitions = parts.names.definitions
    start = definitions.get(name)
    if start is None:
        return None
    found: set[str] = set()
    seen = {name}
    stack: list[object] = [start]
    while stack:
        for node in nodes(stack.pop()):
            if not isinstance(node, s.Name | s.Subscript | s.Attribute | s.Call):
                continue
            word = getattr(node, "id", None) or getattr(node, "name", None) or node.func  # type: ignore[union-attr]
            if word in ("i", "t") or (
                parts.names.axes.get(word, None)
                and word != "n"
                and (parts.names.axes[word].root in ("i", "t"))
            ):
                found.add(parts.names.axes[word].root)
            used = definitions.get(word)
            if isinstance(node, s.Name) and isinstance(used, s.StateDecl) and not used.over:
                found.add("t")
            if isinstance(node, s.Name) and isinstance(used, s.Let) and used.axes:
                found |= {"i", "t"} & set(used.axes)
            plain = isinstance(used, s.LetFunction) or (
                isinstance(used, s.Let) and used.axes is None
            )
            if plain and word not in seen:
                seen.add(word)
                stack.append(used)
    return "both" if len(found) == 2 else "".join(found) or None


def _let(parts: Parts, name: str, written: tuple[str, ...], expr: s.Expr, span: Span) -> None:
    el = parts.el
    axes = written_axes(el, written, name in parts.guess.rows, span)
    core = el.statement(expr, head_scope(el, axes, name))
    check_size(el, core, expr.span)
    _store(parts, name, axes, core, span)


def written_axes(
    el: Elaborator, written: tuple[str, ...], rows: bool, span: Span
) -> tuple[str, ...]:
    """The axes in the head of a definition, as index variables."""
    for place, word in enumerate(written):
        if word not in el.names.axes or word in written[:place]:
            raise el.report.error(
                "A112",
                f"`{word}` is no axis" if word not in el.names.axes else f"`{word}` stands twice",
                span,
                "the head of a definition lists the axes that it binds",
                f"declare it with `axis {word} = …`, or list each axis once",
            )
    return tuple(("n.i" if rows else "n") if word == "n" else word for word in written)


def head_scope(el: Elaborator, axes: tuple[str, ...], name: str) -> Scope:
    """The scope of a definition that binds `axes`."""
    soft = frozenset(axis for axis in axes if el.axis(axis).is_channel)
    return Scope(
        bound=frozenset(axes),
        soft=soft,
        masked=name not in el.unmasked,
        n="n.i" if "n.i" in axes else "n",
        owner=name if "n" in axes or "n.i" in axes else None,
    )


def _store(parts: Parts, name: str, written: tuple[str, ...], core: Expr, span: Span) -> None:
    """Keep a definition: `b` and `h` where it depends on them, its axes, its channels."""
    el = parts.el
    first = tuple(a for a in ("b", "h") if a in core.free and a not in written)
    rest = core.free - set(written) - {"b", "h"}
    later = tuple(axis for axis in _appearance(core) if axis in rest)
    el.defs[name] = Def(name, (*first, *written, *later), core, span=span)
    slots = [Slot(axis, axis, skipped=True) for axis in first]
    slots += [Slot(axis, "n" if axis in ("n", "n.i") else axis) for axis in (*written, *later)]
    el.tensors[name] = Tensor(name, tuple(slots), core.kind)


def _appearance(core: Expr) -> list[str]:
    """The index variables of `core` in the order of the text."""
    order: dict[str, None] = {}
    for node in walk(core):
        for attribute in ("axis", "axes"):
            axes = getattr(node, attribute, ())
            for axis in (axes,) if isinstance(axes, str) else axes:
                order.setdefault(axis)
    return list(order)


def _declare_state(parts: Parts, state: s.StateDecl) -> None:
    el = parts.el
    time = state.over or "t"
    own = written_axes(el, state.axes, False, state.name_span)
    if time not in el.names.axes or time in own:
        raise el.report.error(
            "A112",
            f"`{time}` is no axis to recur over",
            state.name_span,
            "a state advances along an axis that is not its own",
            "write `over t`, `over i`, or declare `axis s = 10` and write `over s`",
        )
    slots = [Slot("b", "b", True), Slot("h", "h", True), Slot(time, time)]
    slots += [Slot(axis, axis) for axis in own if axis not in ("b", "h")]
    kind = parts.guess.kinds.get(state.name, Kind.FLOAT)
    el.tensors[state.name] = Tensor(state.name, tuple(slots), kind, time, state.reverse)


def _step(parts: Parts, state: s.StateDecl) -> None:
    el = parts.el
    tensor = el.tensors[state.name]
    step = parts.names.steps[state.name]
    axes = tuple(slot.axis for slot in tensor.slots)
    own = axes[3:]
    if step.axis != tensor.time:
        raise el.report.error(
            "A113",
            f"`{state.name}` advances along `{tensor.time}`",
            step.name_span,
            f"this step is written over `{step.axis}`",
            f"write `step {state.name}[{tensor.time}] = …`",
        )
    head = head_scope(el, own, state.name)
    kind = tensor.kind
    init: Expr = literal_state(kind)
    if state.init is not None:
        init = el.statement(state.init, head)
        check_listed(el, init, own, state.init.span, state.name)
    # The kind follows from the initial value; an int becomes a float when the step is one.
    parts.kinds[state.name] = parts.guess.kinds.get(state.name, init.kind)
    moving = Scope(head.bound | {step.axis}, head.soft, head.masked, step=state.name)
    core = el.statement(step.expr, moving)
    check_size(el, core, step.expr.span)
    check_listed(el, core, (*own, step.axis), step.expr.span, state.name)
    if (init.kind is Kind.BOOL) != (core.kind is Kind.BOOL):
        raise el.report.error(
            "A105",
            "wrong type",
            step.expr.span,
            f"`{state.name}` starts as {init.kind}, its step is {core.kind}",
            "give the state an initial value of the type of its step",
        )
    if core.kind is Kind.FLOAT and kind is Kind.INT:
        parts.kinds[state.name] = Kind.FLOAT
    parts.states[state.name] = State(
        state.name, axes, tensor.time or "t", state.reverse, kind, init, core, span=state.name_span
    )


def check_listed(el: Elaborator, core: Expr, axes: tuple[str, ...], span: Span, name: str) -> None:
    """Refuse channel axes that the head does not list."""
    extra = core.free - set(axes) - {"b", "h"}
    if extra:
        listed = ", ".join(f"`{axis}`" for axis in sorted(extra))
        raise el.report.error(
            "A108",
            f"`{name}` does not list axis {listed}",
            span,
            f"this depends on {listed}",
            f"add it to the axes of `{name}`, or sum over it",
        )
