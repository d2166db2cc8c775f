"""The host's part of a generated module: facts, operands, epilogue, initial values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from attnspec.codegen.fixed import Fixed, without_tensors
from attnspec.codegen.host import Host
from attnspec.codegen.host_reads import read
from attnspec.codegen.host_values import STARTS, Value
from attnspec.codegen.layout import layout, quoted
from attnspec.codegen.passes import known, operands
from attnspec.codegen.plan_types import BLOCKED, UNIT, Operand, PairPlan
from attnspec.codegen.running import running
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.ast import (
    Apply,
    Decl,
    Expr,
    Form,
    Index,
    Kind,
    Normalize,
    Read,
    Reduce,
    Role,
    Spec,
    walk,
)
from attnspec.dsl.check_prover import Prover

_CHANNELS = frozenset({Role.CHANNEL, Role.CONCAT})
_WRAP = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class Step:
    """One pass: statements before its operation, then its arguments."""

    before: tuple[str, ...]
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What reads no tensor, the passes, what follows them, and computed defaults."""

    fixed: Fixed
    steps: tuple[Step, ...]
    after: tuple[str, ...]
    initial: tuple[tuple[str, tuple[str, ...]], ...]


def suffix(place: int) -> str:
    """What the names of the pass at `place` end in."""
    return f"_{place + 1}" if place else ""


def wrap(spec: Spec, passes: tuple[PairPlan, ...], roots: tuple[tuple[str, Expr], ...]) -> Wrapper:
    """Print the host's part; raises `Unsupported` for what it cannot say."""
    host = Host(spec)
    for decl in spec.decls:
        if decl.where is not None:
            if {"i", "j"} <= set(decl.axes):
                _fact(_of_pairs(host, spec, decl), spec, decl.where, decl)
                continue
            if not decl.paired:
                _fact(host, spec, decl.where, decl)
                continue
            for side in ("i", "j"):
                apart = Host(spec, host.lines, prefix="w", only=(decl.name, side))
                _fact(apart, spec, _at(decl, decl.where, side), decl)
    for fact in spec.requires:
        _fact(host, spec, fact)
    steps: list[Step] = []
    for place, plan in enumerate(passes):
        arguments = _arguments(plan, host)
        steps.append(Step(tuple(host.lines), arguments))
        host.lines.clear()
        _name(host, spec, plan, suffix(place))
    after = _after(spec, dict(roots), host)
    read = [argument for step in steps for argument in step.arguments]
    fixed, before = without_tensors([step.before for step in steps], read, after)
    left = (replace(step, before=own) for step, own in zip(steps, before, strict=True))
    return Wrapper(fixed, tuple(left), after, _initial(spec))


def _name(host: Host, spec: Spec, plan: PairPlan, end: str) -> None:
    """Tell the host what the results of a pass are called."""
    rows = ("b", *plan.lanes, "h", plan.row)
    channel = () if plan.value is None else plan.value.channels
    entries = () if plan.entries is None else plan.entries.axes
    dims = {"vector": (*rows, *channel), "entries": (*rows, *entries)}
    dims |= dict.fromkeys(("map", "blocks"), (*rows, plan.column))
    kind = Kind.INT if plan.form in ("position", "cuts") else Kind.FLOAT
    results = list(known(plan))
    if UNIT in channel:
        host.lines.append(f"out{end} = out{end}[..., 0]")
        dims["vector"] = rows
    if plan.form == "blocks":
        assert isinstance(plan.result, Apply)
        found = running(spec, plan.result.args[0])
        assert found is not None
        host.lines.append(f"out{end} = carried(out{end}, {found.after})")
    if plan.lanes:
        sizes = ", ".join(host.size(host.base(axis)) for axis in (*plan.lanes, "h"))
        for name in sorted({result.partition("[")[0] for _, result in results}):
            place = 2 if name == "lse" and len(plan.branches) > 1 else 1
            host.lines.append(f"{name}{end} = from_lanes({name}{end}, {place}, {sizes})")
    for node, result in results:
        value = Value(result.replace("lse", f"lse{end}"), rows, Kind.FLOAT)
        if result.startswith("out"):
            name = result.replace("out", f"out{end}")
            if len(entries) > 1:
                sizes = ", ".join(host.size(host.base(d)) for d in (*rows, *entries))
                host.lines.append(f"{name} = {name}.view({sizes})")
            value = Value(name, dims.get(plan.form, rows), kind, narrow=plan.form == "vector")
        value = _of(spec, value, node)
        # under an operation, coordinates are written out
        host.known[node] = host.known[coordinates(node, spec)] = value


def _of(spec: Spec, value: Value, node: Expr) -> Value:
    """One batch and head of what a pass found, where `node` is the same for all."""
    masked = any(isinstance(n, Reduce | Normalize) and n.mask is not None for n in walk(node))
    same = {"b", "h"} - node.free
    same -= spec.mask.free if masked and spec.mask is not None else set()
    if not same:
        return value
    lead = value.dims[: value.dims.index("h") + 1]
    places = ", ".join("0" if d in same else ":" for d in lead)
    dims = tuple(d for d in value.dims if d not in same)
    return replace(value, code=f"{value.code}[{places}]", dims=dims)


def _of_pairs(host: Host, spec: Spec, decl: Decl) -> Host:
    """A host that takes what the call gives for every pair as it is."""
    own = tuple(Index(axis, kind=Kind.INT) for axis in decl.axes)
    given = Value(f'tensor["{decl.name}"]', decl.axes, decl.kind)
    known: dict[Expr, Value] = {Read(decl.name, own, kind=decl.kind): given}
    return Host(spec, host.lines, known, prefix="w")


def _at(decl: Decl, fact: Expr, side: str) -> Expr:
    """A fact about a tensor that the call may give apart, of what it gives for one side."""
    tokens = [a for a in decl.axes if a in ("i", "j")]
    place = Index(side, kind=Kind.INT)

    def turned(expr: Expr) -> Expr:
        if isinstance(expr, Index) and expr.axis in tokens:
            return place
        return rebuild(expr, turned)

    return turned(fact)


def _fact(host: Host, spec: Spec, fact: Expr, about: Decl | None = None) -> None:
    """Print the assertion of a fact, part by part: a part depends on one token at most.

    What is not a number breaks no fact about itself.
    """
    if isinstance(fact, Apply) and fact.op == "and":
        for part in fact.args:
            _fact(host, spec, part, about)
        return
    line = quoted(spec.text[fact.span.start : fact.span.end])
    claim = fact
    if about is not None and about.kind is Kind.FLOAT and about.axes:
        reads = [n for n in walk(fact) if isinstance(n, Read) and n.name == about.name]
        unknown = [Apply("ne", (x, x), kind=Kind.BOOL) for x in reads[:1]]
        claim = Apply("or", (fact, *unknown), kind=Kind.BOOL) if unknown else fact
    name = spec.name if about is None else about.name
    host.lines.append(f"hold({host.emit(claim).code}, {quoted(name)}, {line})")


def _arguments(plan: PairPlan, host: Host) -> tuple[str, ...]:
    roles = {x.operand.name: x.role for x in plan.read}
    products = {x.name for d in plan.dots for x in (d.left, d.right)}
    if plan.value is not None:
        products.add(plan.value.name)
    vectors = [v for part in plan.sums for v in part.vectors if v.role != "head"]
    products |= {v.operand.name for v in vectors if v.kind is Kind.FLOAT}
    sizes = _sizes(plan, host)
    columns: list[tuple[Operand, str]] = []
    lines: list[str] = []
    for operand in operands(plan):
        name, role = operand.name, roles.get(operand.name, "")
        if role in ("table", "pair", *BLOCKED):
            if role == "pair":
                assert isinstance(operand.expr, Read)
                source = host.aligned(read(host, operand.expr), operand.own)
            else:
                source = _in_lanes(
                    host, operand, host.aligned(host.emit(operand.expr), operand.axes, ungroup=True)
                )
            source += ".to(torch.int32)" if _short(host.spec, operand.expr) else ""
            code = f"over_pairs({source}, {layout(repr(operand.dims))}, {role == 'table'})"
            if role == "pair" and operand.lanes:
                code = _in_lanes(host, operand, f"{code}[:{', None' * len(operand.lanes)}]")
            lines.append(f"{name} = {code}")
        elif len(operand.dims) > 2 and operand.dims[2] == "j":
            code = _aligned(host, operand, ungroup=False)
            columns.append((operand, f"entries({code})" if role == "column_table" else code))
        else:
            kept = name in products or operand is plan.gate
            dtype = "bound.dtype" if kept else "wide"
            # launches repeat leaves alone over batches and heads, and no sink
            rows = "as_rows" if kept or not role else "of_rows"
            form = "as_heads" if role == "head" else rows
            code = f"{form}({_aligned(host, operand, ungroup=True)}, {dtype}, {sizes})"
            lines.append(f"{name} = {f'entries({code})' if role == 'row_table' else code}")
    columns.sort(key=lambda c: c[0].name not in products)
    first = sum(o.name in products for o, _ in columns)
    lines += [f"{operand.name} = {code}" for operand, code in columns]
    if columns:
        names = ", ".join(o.name for o, _ in columns)
        targets = f"({names},)" if len(columns) == 1 else names
        lines.append(f"{targets} = as_columns([{names}], bound.dtype, {sizes}, {first})")
    codes = [host.emit(s.expr).code for s in plan.scalars]
    numbers = [  # a size that is traced would be a constant after `int`
        code if s.expr.kind is Kind.INT else f"{_WRAP[s.kind]}({code})"
        for s, code in zip(plan.scalars, codes, strict=True)
    ]
    host.lines.extend(lines)
    return (*(o.name for o in operands(plan)), *numbers, *_place(plan, host, columns))


def _short(spec: Spec, expr: Expr) -> bool:
    """Whether whole numbers that the host computes are proved to fit into 32 bits, in which pairs
    take half as long to read them."""
    if expr.kind is not Kind.INT or not isinstance(expr, Read) or spec.decl(expr.name) is not None:
        return False
    prover = Prover(spec)
    found = prover.range(expr, prover.start())
    return found.lo >= -(2**31) and found.hi < 2**31


def _place(plan: PairPlan, host: Host, columns: list[tuple[Operand, str]]) -> list[str]:
    """Batches, heads, key heads, rows, columns and the first positions."""
    row, column = (host.base(axis) for axis in (plan.row, plan.column))
    heads = _heads(plan, host)
    key_heads = f"{columns[0][0].name}.shape[1]" if columns else heads
    sizes = [host.size("b"), heads, key_heads, host.size(row), host.size(column)]
    return [*sizes, *(STARTS.get(axis, "0") for axis in (row, column))]


def _heads(plan: PairPlan, host: Host) -> str:
    """How many heads kernels see."""
    return " * ".join(host.size(host.base(axis)) for axis in (*plan.lanes, "h"))


def _sizes(plan: PairPlan, host: Host) -> str:
    """The sizes by the names that kernels use."""
    base = {"i": host.base(plan.row), "j": host.base(plan.column)}
    turned = {name: host.size(axis) for name, axis in base.items() if name != axis}
    if plan.lanes:
        turned["h"] = _heads(plan, host)
    if not turned:
        return "size"
    items = ", ".join(f'"{name}": {size}' for name, size in turned.items())
    return f"size | {{{items}}}"


def _aligned(host: Host, operand: Operand, ungroup: bool) -> str:
    value = host.emit(operand.expr)
    if value.plain:
        ones = ", ".join("1" for _ in operand.dims)
        dtype = ", dtype=wide" if value.kind is Kind.FLOAT else ""
        return f"torch.tensor({value.code}{dtype}, device=bound.device).view({ones})"
    code = host.aligned(value, operand.axes, ungroup)
    sizes = ["-1"] * len(operand.axes)
    for place, axis in enumerate(operand.axes):
        if 0 < place <= len(operand.lanes) or axis == UNIT or axis in value.dims:
            continue
        if axis in operand.joined or host.spec.axis(axis).role in _CHANNELS:
            sizes[place] = host.size(host.base(axis))  # the same at every channel
    if set(sizes) != {"-1"}:
        code = f"{code}.expand({', '.join(sizes)})"
    code = _in_lanes(host, operand, code, ungroup)
    return f"{code}.flatten({len(operand.dims) - 1})" if operand.joined else code


def _in_lanes(host: Host, operand: Operand, code: str, ungroup: bool = True) -> str:
    """Lanes and heads in one; with `ungroup` the heads of queries."""
    if not operand.lanes:
        return code
    heads = host.size("h") if ungroup else "None"
    sizes = ", ".join(host.size(host.base(lane)) for lane in operand.lanes)
    return f"in_lanes({code}, {heads}, {sizes})"


def _after(spec: Spec, roots: dict[str, Expr], host: Host) -> tuple[str, ...]:
    result = "None"
    if spec.output is not None:
        value, axes = host.emit(roots["output"]), ("b", "h", "i", spec.channel)
        every = set(axes) <= set(value.dims)
        result = host.aligned(value, axes) if every else host.whole(value, axes)
    returned = []
    for item in spec.returns:
        code = host.whole(host.emit(roots[item.name]), item.axes)
        returned.append(f'"{item.name}": {code}')
    if "lse" in roots and all(r.name != "lse" for r in spec.returns):
        total = host.emit(roots["lse"])
        lead = ("b", "h", "i")
        code = host.whole(total, (*lead, *(d for d in total.dims if d not in lead)))
        returned.insert(0, f'"lse": {code}')
    cast = "" if result in ("out", "None") else ".to(bound.dtype)"
    lines = [*host.lines, f"result = {result}{cast}", f"found = {{{', '.join(returned)}}}"]
    return tuple(lines)


def _initial(spec: Spec) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Statements that compute the defaults that no literal gives."""
    found = []
    for decl in spec.decls:
        if decl.default is None or decl.form is Form.CONST:
            continue
        host = Host(spec)
        value = host.emit(decl.default)
        code = value.code if value.plain else host.aligned(value, decl.axes)
        found.append((decl.name, (*host.lines, f"return {code}")))
    return tuple(found)
