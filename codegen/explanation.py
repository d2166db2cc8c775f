"""What `attnspec explain` says of a spec: what was read, proved and planned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from attnspec.codegen.cost import Cost, costs, shown
from attnspec.codegen.packing import apart
from attnspec.codegen.picture import EMPTY, FULL, PARTIAL, VISITED, Picture, picture
from attnspec.codegen.plan_types import (
    Branch,
    ChannelSum,
    Choice,
    Operand,
    PairPlan,
    Plan,
    Ranking,
    Search,
)
from attnspec.codegen.render import render
from attnspec.codegen.spelling import PYTHON, spelled
from attnspec.codegen.tile import Op, needed
from attnspec.dsl import ast
from attnspec.dsl.analysis import Facts
from attnspec.dsl.formula import formula

_LONGEST = 400
_TOKEN_TABLES = {
    "row_table": "an entry of its row's table",
    "column_table": "an entry of its column's table",
    "row_blocks": "a number a block of rows and column",
    "column_blocks": "a number a row and block of columns",
}


def data(spec: ast.Spec, facts: Facts, plan: Plan) -> dict[str, object]:
    """Everything, as JSON has it."""
    drawn = picture(spec, facts)
    return {
        "name": spec.name,
        "title": spec.title,
        "doc": spec.doc,
        "cite": list(spec.cites),
        "catalog": list(spec.catalog),
        "arguments": {decl.name: _argument(decl) for decl in spec.decls},
        "equations": dict(equations(spec)),
        "facts": plain(facts),
        "stages": plain(plan.stages),
        "backward": plan.backward,
        "passes": plain(plan.passes),
        "packing": [apart(found) or "shared" for found in plan.passes],
        "operations": plain(_costs(spec, facts, plan)),
        "picture": None if drawn is None else plain(drawn),
    }


def equations(spec: ast.Spec) -> Iterator[tuple[str, str]]:
    """Left and right side of everything that the spec defines, defaults included."""
    for decl in spec.decls:
        if decl.where is not None:
            yield f"{decl.name} where", formula(decl.where)
    for n, fact in enumerate(spec.requires):
        yield f"require {n + 1}", formula(fact)
    if spec.mask is not None:
        yield "mask", formula(spec.mask)
    for definition in spec.defs:
        yield _left(definition.name, definition.axes), formula(definition.expr)
    for state in spec.states:
        own = _left(state.name, state.axes)
        yield f"{own} starts at", formula(state.init)
        yield own, formula(state.step)
    if spec.output is not None:
        yield _left("output", ("b", "h", spec.token, spec.channel)), formula(spec.output)
    for output in spec.returns:
        yield _left(output.name, output.axes), formula(output.expr)


def plain(value: Any) -> Any:
    """`value` as lists, dicts, texts and numbers; an expression as its formula."""
    if isinstance(value, ast.Node):
        return formula(value)  # type: ignore[arg-type]
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def lines(spec: ast.Spec, facts: Facts, plan: Plan) -> Iterator[str]:
    """Everything, for a person."""
    yield f"{spec.name}: {spec.title}"
    yield from (f"  {cite}" for cite in spec.cites)
    yield from _section("arguments", [f"{d.name} {_argument(d)}" for d in spec.decls])
    yield from _section("equations", [f"{a} = {_short(b)}" for a, b in equations(spec)])
    yield from _section("facts", _facts(facts))
    yield from _section("plan", _stages(plan))
    for place, found in enumerate(plan.passes):
        name = f"pass {place + 1}, " if len(plan.passes) > 1 else ""
        if found.choices:
            yield from _section(f"{name}values of one token", _choices(found.choices))
        sides = f"i are its {_sort(found.row)}, j its {_sort(found.column)}"
        yield from _section(f"{name}tile ({sides})", _tile(found))
    if plan.passes:
        yield from _section(
            "operations for each score element", _operations(_costs(spec, facts, plan))
        )
    drawn = picture(spec, facts)
    if drawn is not None:
        compact = "" if drawn.grid is None else ", compact on the grid"
        yield from _section(f"tiles of {drawn.tile} x {drawn.tile}{compact}", _drawn(drawn))


def _costs(spec: ast.Spec, facts: Facts, plan: Plan) -> dict[str, Cost]:
    return costs(render(spec, facts, plan)) if plan.passes else {}


def _operations(found: dict[str, Cost]) -> Iterator[str]:
    for kernel, cost in found.items():
        if cost.full:
            yield f"{kernel}: {shown(cost.full)}"
        if cost.partial:
            yield f"{kernel}, partial tile: {shown(cost.partial)}"


def _drawn(drawn: Picture) -> Iterator[str]:
    assumed = [f"{name} = {value:g}" for name, value in drawn.assumed]
    yield f"{', '.join([*assumed, *(f'an example of {name}' for name in drawn.made_up)])}"
    yield f"{drawn.visited} of {drawn.tiles} visited, {drawn.unmasked} of them without the mask"
    yield f"{FULL} full  {PARTIAL} partial  {VISITED} empty and visited  {EMPTY} never visited"
    yield from drawn.rows
    if drawn.grid is not None:
        grid = drawn.grid
        yield f"of {_by(grid.sides)} tokens, with tiles of {grid.tile}:"
        yield f"{grid.compact} visited as patches of {_by(grid.rows)} and {_by(grid.columns)}"
        yield f"{grid.in_order} visited with tokens in order"


def _by(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {line}" for line in lines)


def _stages(plan: Plan) -> Iterator[str]:
    for stage in plan.stages:
        yield f"{stage.name}: {stage.kind}, {stage.lowering}" + (stage.why and f" ({stage.why})")
    yield f"backward: {'every gradient is generated' if plan.backward else 'by autograd'}"
    for place, found in enumerate(plan.passes):
        name = f"pass {place + 1}, " if len(plan.passes) > 1 else ""
        why = apart(found)
        each = "share a tile" if why is None else f"have a tile each ({why})"
        yield f"{name}few queries: the query heads of a key head {each}"


def _facts(facts: Facts) -> Iterator[str]:
    for fact in facts.facts:
        yield f"{fact.name}: {fact.value}"
        yield f"    because {fact.why}"
        yield f"    so {fact.buys}"


def _choices(found: Iterable[Choice]) -> Iterator[str]:
    """What the host makes, and what kernels compute in every tile, by the price of either."""
    for choice in found:
        ways = (("kept", choice.keep), ("recomputed", choice.recompute))
        (how, price), (other, spared) = ways if choice.kept else ways[::-1]
        yield (
            f"{_short(formula(choice.expr))}: {how} at {price} operations a token and tile,"
            f" {spared} if {other}"
        )


def _tile(pair: PairPlan) -> Iterator[str]:
    """What a kernel reads for a tile, and what it computes, operation by operation."""
    for dot in pair.dots:
        yield f"{dot.name} = dot of {_operand(dot.left)} and {_operand(dot.right)}"
    for part in pair.sums:
        yield from _sum(part)
    for leaf in pair.leaves:
        at = "" if leaf.index is None else f" at {leaf.index}"
        what = _TOKEN_TABLES.get(leaf.role, f"a number a {leaf.role}")
        yield f"{leaf.name}, {what}{at}: {_operand(leaf.operand)}"
    for scalar in pair.scalars:
        yield f"{scalar.name} = {_short(formula(scalar.expr))}, once a call"
    scores = [branch.score for branch in pair.branches]
    shown = [pair.keep, *scores, None if pair.entries is None else pair.entries.index]
    for op in needed(pair.ops, [x for x in shown if x is not None]):
        yield f"{op.target} = {_operation(op)}"
    if pair.keep is not None:
        yield f"the pair takes part where {pair.keep}"
    if isinstance(pair.search, Search):
        yield from _search(pair, pair.search)
    elif pair.search is not None:
        yield from _ranking(pair.search)
    for branch in pair.branches if pair.search is None else ():
        yield from _weight(pair, branch)
    if pair.form == "map":
        yield "the weights themselves are stored"
    if pair.form == "blocks":
        yield "the weights of each block of columns are added up"
    if pair.entries is not None:
        axes = ", ".join(pair.entries.axes)
        yield f"added up for each entry [{axes}], that of a pair being {pair.entries.index}"
    for name, operand in (("values", pair.value), ("gate", pair.gate)):
        if operand is not None:
            yield f"{name}: {_operand(operand)}"
    known = {op.target for op in needed(pair.ops, scores)}
    for op in needed(pair.ops, [atom for branch in pair.branches for atom in branch.backward]):
        if op.target not in known:
            yield f"{op.target} = {_operation(op)}, backward"
    for place, branch in enumerate(pair.branches):
        for form in branch.forms:
            ways = (("expanded", form.parts), ("whole", form.whole))
            (how, price), (other, spared) = ways if form.expanded else ways[::-1]
            yield (
                f"{form.function} {how} in the backward: {price} operations a pair,"
                f" {spared} {other}"
            )
        name = "score" if len(scores) == 1 else f"score {place + 1}"
        for gradient in branch.gradients:
            yield f"d {name} / d {gradient.of} = {gradient.value}"


def _weight(pair: PairPlan, branch: Branch) -> Iterator[str]:
    """One of the weights that a pass adds up."""
    several = len(pair.branches) > 1
    if pair.form == "position":
        yield f"the position of the largest {branch.score} of a row, the first of equal ones"
    elif branch.softmax:
        yield f"softmax, in base 2, of {branch.score}"
    else:
        yield f"{'plus the ' * several}weight {branch.score}"
    coefficient = branch.coefficient
    if isinstance(coefficient, Operand):
        yield f"    times {_operand(coefficient)}"
    elif coefficient != 1.0:
        yield f"    times {coefficient}"
    if branch.sink is not None:
        yield f"sink: {_operand(branch.sink)}"


def _search(pair: PairPlan, search: Search) -> Iterator[str]:
    """What a pass does that goes over the keys until it has found the threshold of its rows."""
    score = pair.branches[0].score
    known = {op.target for op in needed(pair.ops, [pair.keep or 1, score])}
    for op in needed(pair.ops, search.atoms):
        if op.target not in known:
            yield f"{op.target} = {_operation(op)}, in every sweep but the first"
    yield f"the threshold at which the sum of {search.share} over a row is 1, without a gradient"
    yield f"the keys are swept for the largest {score} of each row, then once for every step"
    yield "    towards the threshold: 3 to 12 by Newton's method, 20 to 30 by halving the interval"
    yield f"    where {search.order}, which is alpha - 1, is above 1"


def _ranking(search: Ranking) -> Iterator[str]:
    """What a pass does that goes over the keys until it has found the largest of its rows."""
    yield f"the cuts around the {search.count} largest {search.score} of a row, without a gradient"
    yield "    two orders between the last that is in and the next, and where equal ones are in and"
    yield "    out the position of the last that is in"
    sweeps = 34 if search.whole else 18
    yield f"the keys are swept up to {sweeps} times, until counts tell numbers apart, and where"
    yield "    equal ones are in and out once more for two binary digits of the number of keys"


def _sort(axis: str) -> str:
    """What the positions of a token axis are."""
    return {"i": "queries", "j": "keys"}.get(axis, axis)


_TOTALS = {
    "sum": "the sum of {} over {}",
    "amax": "the largest {} over {}",
    "place": "the place of the largest {} over {}",
}


def _sum(part: ChannelSum) -> Iterator[str]:
    """A sum over channels, term by term."""
    for vector in part.vectors:
        owner = f"an element of {part.channel} a {vector.role}"
        yield f"{vector.name}, {owner}: {_operand(vector.operand)}"
    value = needed(part.ops, [part.value, part.where])
    for op in part.ops:
        yield f"{op.target} = {_operation(op)}" + ("" if op in value else ", backward")
    what = _TOTALS[part.op].format(part.value, part.channel)
    what += "" if part.where is True else f" where {part.where}"
    yield f"{part.name} = {what}"
    for name, term in part.beside:
        yield f"{name} = {_TOTALS[part.op].format(term, part.channel)}, backward"
    for gradient in part.gradients:
        yield f"d {part.value} / d {gradient.of} = {gradient.value}"


def _operand(operand: Operand) -> str:
    return f"{_left(operand.name, operand.axes)} = {_short(formula(operand.expr))}"


def _operation(op: Op) -> str:
    if op.op in ("running_i", "running_j"):
        summed, carried, side, after, own = op.args
        where = f"{'after' if after else 'before'} its own{' and that one' if own else ''}"
        return f"sum of {summed} over the {side} of its block {where}, plus {carried}"
    form = PYTHON.get(spelled(op.op, op.kind))
    if form is None or form.startswith("math."):
        return f"{op.op}({', '.join(map(str, op.args))})"
    return form.format(*op.args)


def _argument(decl: ast.Decl) -> str:
    axes = f"[{', '.join(decl.axes)}]" if decl.axes else ""
    text = f"{axes}: {decl.kind.value} {decl.form.value}".lstrip(": ")
    if decl.default is not None:
        text += f" = {_short(formula(decl.default))}"
    return text


def _left(name: str, axes: tuple[str, ...]) -> str:
    return f"{name}[{', '.join(axes)}]" if axes else name


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
