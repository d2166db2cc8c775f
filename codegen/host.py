"""PyTorch for what depends on at most one token: features, gates, norms, rotations, facts.

Prints one statement per node. A value is a tensor whose dimensions are index variables in
canonical order; a value without dimensions that reads no tensor is a plain number. Keys and
values may have fewer heads than queries: such a value is `grouped` until it meets one that has
them all. Autograd differentiates what is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attnspec.codegen import host_sums as sums
from attnspec.codegen.finite import Finite
from attnspec.codegen.host_reads import read
from attnspec.codegen.host_values import STARTS, Dims, Value
from attnspec.codegen.lower import differentiable
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.spelling import HOST, PYTHON, PYTHON_INSIDE, TORCH, number, spelled
from attnspec.codegen.token_axes import tokens
from attnspec.dsl.analysis.positions import coordinates, divides, nonnegative
from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Cumsum,
    Expr,
    Index,
    Kind,
    Literal,
    Normalize,
    Rank,
    Read,
    Reduce,
    Role,
    Rope,
    Size,
    Spec,
    walk,
)

_ORDER = {
    Role.BATCH: 0,
    Role.HEAD: 1,
    Role.QUERY: 2,
    Role.KEY: 3,
    Role.TIME: 4,
    Role.ALIAS: 5,
    Role.BLOCK: 6,
    Role.CHANNEL: 7,
    Role.CONCAT: 8,
}


@dataclass(slots=True)
class Host:
    """Prints statements for expressions of one spec; `lines` grow as values are asked for. Of an
    argument that the call gives apart for queries and keys, `only` (its name, "i" or "j") reads the
    one of that side, wherever."""

    spec: Spec
    lines: list[str] = field(default_factory=list)
    known: dict[Expr, Value] = field(default_factory=dict)
    prefix: str = "a"
    only: tuple[str, str] = ("", "")
    _widened: dict[str, Value] = field(default_factory=dict)
    _count: int = 0
    _finite: Finite = field(init=False)

    def __post_init__(self) -> None:
        self._finite = Finite(self.spec)

    # names

    def assign(self, code: str, dims: Dims, kind: Kind, grouped: str = "") -> Value:
        """Print `name = code` with a fresh name."""
        self._count += 1
        name = f"{self.prefix}{self._count}"
        self.lines.append(f"{name} = {code}")
        return Value(name, dims, kind, grouped=grouped)

    def order(self, dims: frozenset[str] | set[str]) -> Dims:
        """Canonical order of dimensions."""
        names = [a.name for a in self.spec.axes]

        def key(name: str) -> tuple[int, int, str]:
            role = self.spec.axis(name).role
            return _ORDER[role], names.index(name), name

        return tuple(sorted(dims, key=key))

    def size(self, axis: str) -> str:
        """The number of indices of an axis, as code."""
        return f'size["{axis}"]'

    def base(self, axis: str) -> str:
        """The axis that an alias stands for."""
        while self.spec.axis(axis).role is Role.ALIAS:
            axis = self.spec.axis(axis).base or axis
        return axis

    # expressions

    def emit(self, expr: Expr) -> Value:
        """Print what computes `expr`."""
        if expr not in self.known:
            paired = len(tokens(self.spec, expr.free)) > 1
            if paired and not any(n in self.known for n in walk(expr)):
                raise Unsupported("a host value that depends on two tokens")
            written = coordinates(expr, self.spec)
            found = self.known.get(written)
            self.known[expr] = self._emit(written) if found is None else found
        return self.known[expr]

    def wide(self, expr: Expr) -> Value:
        """`emit` for arithmetic, which is never in less than float32."""
        value = self.emit(expr)
        if not value.narrow:
            return value
        if value.code not in self._widened:
            code = f"{value.code}.to(wide)"
            self._widened[value.code] = self.assign(code, value.dims, value.kind, value.grouped)
        return replace(self._widened[value.code], dims=value.dims)

    def _emit(self, expr: Expr) -> Value:
        match expr:
            case Literal(value=value):
                return Value(number(value), (), expr.kind, plain=True)
            case Size(of=of):
                return Value(self.size(of), (), Kind.INT, plain=True)
            case Index(axis=axis):
                return self._index(axis)
            case Apply():
                return self._apply(expr)
            case Read():
                return read(self, expr)
            case Contract():
                return sums.contract(self, expr)
            case Reduce():
                return sums.reduce(self, expr)
            case Normalize():
                return sums.normalize(self, expr)
            case Cumsum():
                return sums.cumsum(self, expr)
            case Rank():
                return sums.rank(self, expr)
            case Rope():
                return sums.rope(self, expr)
            case Concat():
                return sums.concat(self, expr)
        raise Unsupported(f"a {type(expr).__name__.lower()} outside the kernels")

    def _index(self, axis: str) -> Value:
        base = self.base(axis)
        first = f" + {STARTS[base]}" if base in STARTS else ""
        code = f"torch.arange({self.size(axis)}, device=bound.device){first}"
        return self.assign(code, (axis,), Kind.INT)

    def aligned(self, value: Value, dims: Dims, ungroup: bool = False) -> str:
        """Code for `value` that broadcasts over exactly `dims`."""
        if value.plain:
            return value.code
        code = value.code
        if ungroup and value.grouped:
            code = f"all_heads({code}, {value.dims.index('h')}, {self.size('h')})"
        inside = [d for d in dims if d in value.dims]
        if list(value.dims) != inside:
            order = ", ".join(str(value.dims.index(d)) for d in inside)
            code = f"{code}.permute({order})"
        places = [place for place, d in enumerate(dims) if d not in value.dims]
        if len(places) <= 2:  # as the operands of kernels: quicker than an index
            return code + "".join(f".unsqueeze({place})" for place in places)
        return f"{code}[{', '.join(':' if d in value.dims else 'None' for d in dims)}]"

    def ungrouped(self, value: Value) -> Value:
        """`value` with its key heads counted as query heads."""
        if not value.grouped or "h" not in value.dims:
            return value
        code = self.aligned(value, value.dims, ungroup=True)
        return replace(self.like(value, code), grouped="", narrow=value.narrow)

    def whole(self, value: Value, dims: Dims) -> str:
        """Code for `value` with exactly `dims`, none of them left to broadcasting."""
        sizes = ", ".join(self.size(d) for d in dims)
        if value.plain:
            dtype = ", dtype=wide" if value.kind is Kind.FLOAT else ""
            return f"torch.full(({sizes},), {value.code}{dtype}, device=bound.device)"
        code = self.aligned(value, dims, ungroup=True)
        return code if value.code == "lse" else f"{code}.expand({sizes})"

    def _join(self, values: list[Value]) -> tuple[list[str], Dims, str]:
        """Aligned codes, their common dimensions, and the head group they are left in."""
        dims = self.order({d for v in values for d in v.dims})
        groups = {v.grouped for v in values if "h" in v.dims}
        ungroup = len(groups) > 1
        codes = [self.aligned(self.ungrouped(v) if ungroup else v, dims) for v in values]
        return codes, dims, "" if ungroup else next(iter(groups), "")

    def matched(self, a: Value, b: Value) -> tuple[Value, Value]:
        """`a` with the dimensions of both, and `b` aligned with it."""
        (first, second), dims, grouped = self._join([a, b])
        whole = self.assign(f"spread({first}, {second})", dims, a.kind, grouped)
        return whole, Value(second, dims, b.kind, b.plain, grouped)

    def like(self, value: Value, code: str) -> Value:
        """Print `code` for a value of the same dimensions and type as another."""
        return self.assign(code, value.dims, value.kind, value.grouped)

    def dim(self, value: Value, axis: str) -> int:
        """The place of an axis, counted from the last as PyTorch does."""
        return value.dims.index(axis) - len(value.dims)

    def _apply(self, expr: Apply) -> Value:
        values = [self.wide(a) for a in expr.args]
        op = spelled(expr.op, expr.kind)
        if all(v.plain for v in values):
            inside = op in PYTHON_INSIDE and _inside(op, expr.args)
            form = PYTHON_INSIDE[op] if inside else PYTHON[op]
            return self._plain(op, form, [v.code for v in values], expr.kind)
        values = [self.widen(v, expr.kind) for v in values]
        codes, dims, grouped = self._join(values)
        table = HOST if differentiable(self.spec, expr) else TORCH
        if op == "where" and values[0].plain:
            codes[0] = f"torch.tensor({codes[0]}, device=bound.device)"
        if op == "div" and values[1].plain:
            table = TORCH
        if op in ("floordiv", "mod") and divides(expr.args[1]):
            op = f"{op}_unsigned"
        if op == "where" and expr.kind is Kind.FLOAT and all(v.plain for v in values[1:]):
            codes[1] = f"torch.full((), {codes[1]}, dtype=wide, device=bound.device)"
        if op == "mul" and self.overflows(*expr.args):
            code = f"safe_mul({', '.join(codes)})"
        elif op in ("add", "mul", "and", "or"):
            code = TORCH[op].replace("{0}", "").replace("{1}", "").join(codes)
        elif op in ("min", "max"):
            code = codes[0]
            for other in codes[1:]:
                code = TORCH[op].format(code, other)
        else:
            code = table[op].format(*codes)
        return self.assign(code, dims, expr.kind, grouped)

    def overflows(self, *factors: Expr) -> bool:
        """Whether one of them may be infinite beside another that has a gradient."""
        large = [n for n, x in enumerate(factors) if not self._finite(x)]
        if not large:
            return False
        some = [n for n, x in enumerate(factors) if differentiable(self.spec, x)]
        return any(n != m for n in some for m in large)

    def widen(self, value: Value, kind: Kind) -> Value:
        """An integer as a real number where the result is to be one."""
        if value.plain or kind is not Kind.FLOAT or value.kind is not Kind.INT:
            return value
        return self.assign(f"{value.code}.to(wide)", value.dims, Kind.FLOAT, value.grouped)

    def _plain(self, op: str, form: str, codes: list[str], kind: Kind) -> Value:
        wrapped = [c if c[0] != "-" else f"({c})" for c in codes]
        if op in ("add", "mul", "and", "or", "min", "max") and len(wrapped) > 2:
            code = wrapped[0]
            for other in wrapped[1:]:
                code = f"({form.format(code, other)})"
        else:
            code = form.format(*wrapped)
        if len(code) < 40:
            return Value(f"({code})", (), kind, plain=True)
        named = self.assign(code, (), kind)
        return Value(named.code, (), kind, plain=True)


def _inside(op: str, args: tuple[Expr, ...]) -> bool:
    """Whether a function of plain numbers provably stays inside its domain, short of overflow."""
    match op, args:
        case (("div" | "floordiv" | "mod"), (_, Literal(value=divisor))):
            return divisor != 0
        case "pow", (Literal(value=base), _):
            return 0 < base <= 2
        case "pow", (_, Literal(value=exponent)):
            return exponent in (1, 2)
        case (("log" | "log2" | "log1p" | "rsqrt"), (Literal(value=x),)):
            return x > 0
        case "sqrt", (x,):
            return nonnegative(x)
    return False


def require_supported(spec: Spec, expr: Expr) -> None:
    """Raise `Unsupported` where the host printer cannot say `expr`."""
    Host(spec).emit(expr)
