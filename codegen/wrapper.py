"""The host's part of a generated module: facts, operands, epilogue, initial values."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.codegen.host import Host
from attnspec.codegen.host_values import Value
from attnspec.codegen.layout import layout, quoted
from attnspec.codegen.plan_types import Operand, PairPlan
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates, rebuild
from attnspec.dsl.ast import Apply, Decl, Expr, Form, Index, Kind, Normalize, Read, Spec, walk

_WRAP = {Kind.FLOAT: "float", Kind.INT: "int", Kind.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class Wrapper:
    """Statements before the operation, its arguments, what follows it, and computed defaults."""

    before: tuple[str, ...]
    arguments: tuple[str, ...]
    after: tuple[str, ...]
    initial: tuple[tuple[str, tuple[str, ...]], ...]


def operands(pair: PairPlan) -> list[Operand]:
    """The operation's tensors in order, each once."""
    found = [d.left for d in pair.dots] + [d.right for d in pair.dots] + [pair.value]
    found += [x for x in (pair.gate, pair.sink) if x is not None]
    found += [leaf.operand for leaf in pair.leaves]
    return list({o.name: o for o in found}.values())


def wrap(spec: Spec, pair: PairPlan) -> Wrapper:
    """Print the host's part; raises `Unsupported` for what it cannot say."""
    host = Host(spec)
    for decl in spec.decls:
        if decl.where is not None:
            if not decl.paired:
                _fact(host, spec, decl.where, decl)
                continue
            for side in ("i", "j"):
                apart = Host(spec, host.lines, prefix="w", only=(decl.name, side))
                _fact(apart, spec, _at(decl, decl.where, side), decl)
    for fact in spec.requires:
        _fact(host, spec, fact)
    arguments = _arguments(pair, host)
    before = tuple(host.lines)
    host.lines.clear()
    return Wrapper(before, arguments, _after(spec, pair, host), _initial(spec))


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


def _arguments(pair: PairPlan, host: Host) -> tuple[str, ...]:
    roles = {x.operand.name: x.role for x in pair.leaves}
    products = {x.name for d in pair.dots for x in (d.left, d.right)} | {pair.value.name}
    columns: list[tuple[Operand, str]] = []
    lines: list[str] = []
    for operand in operands(pair):
        name, role = operand.name, roles.get(operand.name, "")
        if role in ("table", "pair"):
            if role == "pair":
                assert isinstance(operand.expr, Read)
                source = f'tensor["{operand.expr.name}"]'
            else:
                source = host.aligned(host.emit(operand.expr), operand.dims, ungroup=True)
            lines.append(
                f"{name} = over_pairs({source}, {layout(repr(operand.dims))}, {role == 'table'})"
            )
        elif len(operand.dims) > 2 and operand.dims[2] == "j":
            code = _aligned(host, operand, ungroup=False)
            columns.append((operand, f"entries({code})" if role == "column_table" else code))
        else:
            kept = name in products or operand is pair.gate
            dtype = "bound.dtype" if kept else "wide"
            code = f"as_rows({_aligned(host, operand, ungroup=True)}, {dtype}, size)"
            lines.append(f"{name} = {f'entries({code})' if role == 'row_table' else code}")
    columns.sort(key=lambda c: c[0].name not in products)
    first = sum(o.name in products for o, _ in columns)
    lines += [f"{operand.name} = {code}" for operand, code in columns]
    names = ", ".join(o.name for o, _ in columns)
    targets = f"({names},)" if len(columns) == 1 else names
    lines.append(f"{targets} = as_columns([{names}], bound.dtype, size, {first})")
    numbers = [f"{_WRAP[s.kind]}({host.emit(s.expr).code})" for s in pair.scalars]
    host.lines.extend(lines)
    return (*(o.name for o in operands(pair)), *numbers)


def _aligned(host: Host, operand: Operand, ungroup: bool) -> str:
    value = host.emit(operand.expr)
    if value.plain:
        ones = ", ".join("1" for _ in operand.dims)
        dtype = ", dtype=wide" if value.kind is Kind.FLOAT else ""
        return f"torch.tensor({value.code}{dtype}, device=bound.device).view({ones})"
    return host.aligned(value, operand.dims, ungroup)


def _after(spec: Spec, pair: PairPlan, host: Host) -> tuple[str, ...]:
    dims = ("b", "h", "i", pair.value.dims[3])
    found = {pair.result: Value("out", dims, Kind.FLOAT, narrow=True)}
    if pair.log_sum_exp is not None:
        found[pair.log_sum_exp] = Value("lse", dims[:3], Kind.FLOAT)
    for node, value in found.items():  # under an operation, coordinates are written out
        host.known[node] = host.known[coordinates(node, spec)] = value
    assert spec.output is not None
    output = host.emit(inline(spec, spec.output))
    result = host.aligned(output, ("b", "h", "i", spec.channel))
    returned = []
    for item in spec.returns:
        value = host.emit(inline(spec, item.expr))
        code = host.whole(value, item.axes)
        returned.append(f'"{item.name}": {code}')
    weight = spec.definition("weight")
    normalised = weight is not None and isinstance(weight.expr, Normalize)
    if normalised and all(r.name != "lse" for r in spec.returns):
        returned.insert(0, '"lse": lse')
    cast = "" if result == "out" else ".to(bound.dtype)"
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
