"""PyTorch for what depends on at most one token: features, gates, norms, rotations, facts.

Prints one statement per node. A value is a tensor whose dimensions are index variables in
canonical order; a value without dimensions that reads no tensor is a plain number. Keys and
values may have fewer heads than queries: such a value is `grouped` until it meets one that has
them all. Autograd differentiates what is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from attnspec.codegen.lower import differentiable
from attnspec.codegen.plan_types import Unsupported
from attnspec.codegen.spelling import HOST, PYTHON, PYTHON_INSIDE, TORCH, number, spelled
from attnspec.dsl.analysis.positions import coordinates, divides, nonnegative
from attnspec.dsl.ast import (
    Apply,
    Concat,
    Contract,
    Cumsum,
    Decl,
    Expr,
    Form,
    GridIndex,
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
)

__all__ = ["Host", "Value", "require_supported"]

_TOKENS = {Role.QUERY, Role.KEY, Role.TIME, Role.ALIAS}
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
_STARTS = {"i": "bound.q_start", "j": "bound.k_start", "t": "bound.k_start"}
Dims: TypeAlias = "tuple[str, ...]"


@dataclass(frozen=True, slots=True)
class Value:
    """What a printed name holds. `plain`: a Python number; `grouped`: `h` counts key heads;
    `narrow`: in the dtype that the call gave it."""

    code: str
    dims: Dims
    kind: Kind
    plain: bool = False
    grouped: str = ""
    narrow: bool = False


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
    _sizes: set[str] = field(default_factory=set)
    _count: int = 0

    # names

    def assign(self, code: str, dims: Dims, kind: Kind, grouped: str = "", name: str = "") -> Value:
        """Print `name = code`."""
        if not name:
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

    # expressions

    def emit(self, expr: Expr) -> Value:
        """Print what computes `expr`."""
        if expr not in self.known:
            tokens = [a for a in expr.free if self.spec.axis(a).role in _TOKENS]
            if len(tokens) > 1 and not isinstance(expr, Index):
                raise Unsupported("a host value that depends on two tokens")
            self.known[expr] = self._emit(coordinates(expr, self.spec))
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
                return self._read(expr)
            case Contract():
                return self._contract(expr)
            case Reduce():
                return self._reduce(expr)
            case Normalize():
                return self._normalize(expr)
            case Cumsum():
                body = self._whole(expr.body, expr.axis)
                if expr.where is not None:
                    body = self._masked(body, expr.where, "0")
                return self._like(body, f"torch.cumsum({body.code}, {self._at(body, expr.axis)})")
            case Rank(axis=axis, body=inner, where=where):
                body = self._whole(inner, axis)
                allowed = "None"
                if where is not None:
                    body, mask = self._matched(body, self.emit(where))
                    allowed = mask.code
                code = f"rank({body.code}, {self._at(body, axis)}, {allowed})"
                return self.assign(code, body.dims, Kind.INT, body.grouped)
            case Rope():
                return self._rope(expr)
            case Concat(axis=axis, parts=parts):
                return self._concat(axis, parts)
        raise Unsupported(f"a {type(expr).__name__.lower()} outside the kernels")

    def _index(self, axis: str) -> Value:
        base = self._base(axis)
        first = f" + {_STARTS[base]}" if base in _STARTS else ""
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
        if len(inside) != len(dims):
            index = ", ".join(":" if d in value.dims else "None" for d in dims)
            code = f"{code}[{index}]"
        return code

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
        codes = [self.aligned(v, dims, ungroup) for v in values]
        return codes, dims, "" if ungroup else next(iter(groups), "")

    def _matched(self, a: Value, b: Value) -> tuple[Value, Value]:
        (first, second), dims, grouped = self._join([a, b])
        whole = self.assign(f"spread({first}, {second})", dims, a.kind, grouped)
        return whole, Value(second, dims, b.kind, b.plain, grouped)

    def _like(self, value: Value, code: str) -> Value:
        return self.assign(code, value.dims, value.kind, value.grouped)

    def _at(self, value: Value, axis: str) -> int:
        return value.dims.index(axis) - len(value.dims)

    def _apply(self, expr: Apply) -> Value:
        values = [self.wide(a) for a in expr.args]
        op = spelled(expr.op, expr.kind)
        if all(v.plain for v in values):
            inside = op in PYTHON_INSIDE and _inside(op, expr.args)
            form = PYTHON_INSIDE[op] if inside else PYTHON[op]
            return self._plain(op, form, [v.code for v in values], expr.kind)
        values = [self._widen(v, expr.kind) for v in values]
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
        if op in ("add", "mul", "and", "or"):
            code = TORCH[op].replace("{0}", "").replace("{1}", "").join(codes)
        elif op in ("min", "max"):
            code = codes[0]
            for other in codes[1:]:
                code = TORCH[op].format(code, other)
        else:
            code = table[op].format(*codes)
        return self.assign(code, dims, expr.kind, grouped)

    def _widen(self, value: Value, kind: Kind) -> Value:
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

    # reading tensors

    def _read(self, expr: Read) -> Value:
        decl = self.spec.decl(expr.name)
        found = self.spec.definition(expr.name)
        if decl is not None and not decl.axes and decl.form is not Form.PARAM:
            return Value(f'number["{decl.name}"]', (), decl.kind, plain=True)
        if decl is not None:
            source, axes = self._tensor(decl, expr.index), decl.axes
        elif found is not None:
            source, axes = self.emit(found.expr), found.axes
        else:
            raise Unsupported(f"the state `{expr.name}`")
        renamed = self._renamed(axes, expr.index)
        if renamed is not None:
            if decl is None or not decl.paired:  # a pair has the rows of either side
                source = self._rows(source, axes, renamed)
            dims = tuple(renamed[d] for d in source.dims)
            value = replace(source, dims=dims)
            wanted = self.order(set(dims))
            if dims == wanted or value.plain:
                return value
            turned = self.assign(self.aligned(value, wanted), wanted, value.kind, value.grouped)
            return replace(turned, narrow=value.narrow)
        return self._gather(expr, source, axes)

    def _rows(self, source: Value, axes: Dims, renamed: dict[str, str]) -> Value:
        """The rows of `source` at the positions of the other side, where it is read there."""
        for axis in axes:
            own, other = self._base(axis), self._base(renamed[axis])
            if own == other or own not in _STARTS or other not in _STARTS or "t" in (own, other):
                continue
            first = f"{_STARTS[other]} - {_STARTS[own]}"
            place = source.dims.index(axis)
            code = f"{source.code}.narrow({place}, {first}, {self.size(other)})"
            rows = self.assign(code, source.dims, source.kind, source.grouped)
            source = replace(rows, narrow=source.narrow)
        return source

    def _tensor(self, decl: Decl, index: tuple[Expr, ...]) -> Value:
        if decl.form is Form.CONST:
            wide = {"int": "torch.int64", "bool": "torch.bool", "float": "wide"}[decl.kind.value]
            code = f"torch.tensor({decl.values!r}, dtype={wide}, device=bound.device)"
            key = Read(decl.name, tuple(Index(a, kind=Kind.INT) for a in decl.axes), kind=decl.kind)
            if key not in self.known:
                self.known[key] = self.assign(code, decl.axes, decl.kind)
            return self.known[key]
        code = f'tensor["{decl.name}"]'
        if decl.paired:
            place = next(k for k, a in enumerate(decl.axes) if a in ("i", "j", "t"))
            at = index[place]
            former = isinstance(at, Index) and self._base(at.axis) == "i"
            if decl.name == self.only[0]:
                former = self.only[1] == "i"
            code += "[0]" if former else "[1]"
        grouped = decl.name if decl.form in (Form.KEY, Form.VALUE) and "h" in decl.axes else ""
        return Value(code, decl.axes, decl.kind, grouped=grouped, narrow=decl.kind is Kind.FLOAT)

    def _base(self, axis: str) -> str:
        while self.spec.axis(axis).role is Role.ALIAS:
            axis = self.spec.axis(axis).base or axis
        return axis

    def _renamed(self, axes: Dims, index: tuple[Expr, ...]) -> dict[str, str] | None:
        """Dimension by axis where every index is a variable of that axis' own size."""
        names: dict[str, str] = {}
        for axis, at in zip(axes, index, strict=True):
            if not isinstance(at, Index) or at.axis in names.values():
                return None
            if axis != at.axis and not self._same(axis, at.axis):
                return None
            names[axis] = at.axis
        return names

    def _same(self, axis: str, variable: str) -> bool:
        base, other = self._base(axis), self._base(variable)
        roles = {self.spec.axis(base).role, self.spec.axis(other).role}
        if base == other or roles == {Role.CHANNEL}:
            return True
        # a token read at the other side: the call checked or sliced the rows
        return bool(roles <= _TOKENS) and {base, other} != {base}

    def _gather(self, expr: Read, source: Value, axes: Dims) -> Value:
        if source.plain:
            return source
        dims = self.order(expr.free)
        ungrouped = self.aligned(source, source.dims, ungroup=True)
        inside: list[str] = []
        codes: list[str] = []
        for axis in source.dims:
            at = expr.index[axes.index(axis)]
            value = self.emit(at)
            role = self.spec.axis(axis).role
            if role in _TOKENS and expr.name == self.only[0]:
                axis = self.only[1]
            code = self.aligned(value, dims)
            if value.plain:
                code = f"torch.tensor({code}, device=bound.device)"
            if self._base(axis) in _STARTS and role in _TOKENS:
                code = f"{code} - {_STARTS[self._base(axis)]}"
            if role is Role.BATCH:
                code = f"{code}.clamp(max={ungrouped}.shape[0] - 1)"
            if expr.pad is not None and not isinstance(at, Index):
                named = self.assign(code, dims, Kind.INT)
                inside.extend(self._inside(at, named.code, axis, dims))
                code = f"{named.code}.clamp(0, {self.size(axis)} - 1)"
            codes.append(code)
        picked = f"{ungrouped}[{', '.join(codes)}]"
        if inside and expr.pad is not None:
            pad = self.aligned(self.emit(expr.pad), dims)
            held = self.assign(picked, dims, expr.kind)
            test = " & ".join(f"({t})" for t in inside)
            picked = f"torch.where({test}, {held.code}, {pad})"
        return replace(self.assign(picked, dims, expr.kind), narrow=source.narrow)

    def _inside(self, at: Expr, code: str, axis: str, dims: Dims) -> list[str]:
        if not isinstance(at, GridIndex):
            return [f"({code} >= 0) & ({code} < {self.size(axis)})"]
        names = next(g.names for g in self.spec.grids if g.side == at.grid or self.spec.shared_grid)
        side = "i" if self.spec.shared_grid else at.grid
        tests = []
        for name, coord in zip(names, at.coords, strict=True):
            value = self.aligned(self.emit(coord), dims)
            tests.append(f"({value} >= 0) & ({value} < {self.size(f'{side}.{name}')})")
        return tests

    # sums and the like

    def _contract(self, expr: Contract) -> Value:
        left, right = self.wide(expr.left), self.wide(expr.right)
        groups = {v.grouped for v in (left, right) if "h" in v.dims}
        ungroup = len(groups) > 1
        for axis in expr.axes:
            if axis not in left.dims or axis not in right.dims:
                return self._sum_product(expr, left, right)
        letters = {d: chr(97 + k) for k, d in enumerate(self.order({*left.dims, *right.dims}))}
        dims = self.order({*left.dims, *right.dims} - set(expr.axes))
        texts = ["".join(letters[d] for d in v.dims) for v in (left, right)]
        out = "".join(letters[d] for d in dims)
        codes = ", ".join(self.aligned(v, v.dims, ungroup) for v in (left, right))
        code = f'torch.einsum("{texts[0]},{texts[1]}->{out}", {codes})'
        return self.assign(code, dims, Kind.FLOAT, "" if ungroup else next(iter(groups), ""))

    def _sum_product(self, expr: Contract, left: Value, right: Value) -> Value:
        product = Apply("mul", (expr.left, expr.right), kind=Kind.FLOAT)
        return self.emit(Reduce("sum", expr.axes, product, kind=Kind.FLOAT))

    def _whole(self, expr: Expr, *axes: str) -> Value:
        """`expr` with dimensions `axes`, each whole: spread out where it does not depend on it."""
        value = self.wide(expr)
        if "h" in axes and value.grouped:
            value = self.assign(self.aligned(value, value.dims, True), value.dims, value.kind)
        missing = [a for a in axes if a not in value.dims]
        if not missing:
            return value
        dims = self.order({*value.dims, *missing})
        code = value.code
        if value.plain:
            wide = {"int": "torch.int64", "bool": "torch.bool", "float": "wide"}[value.kind.value]
            code = f"torch.tensor({code}, dtype={wide}, device=bound.device)"
            value = Value(code, (), value.kind)
        shape = ", ".join(self.size(d) if d in missing else "-1" for d in dims)
        code = f"{self.aligned(value, dims)}"
        if not value.dims:
            code = f"{value.code}"
        return self.assign(f"{code}.expand({shape})", dims, value.kind, value.grouped)

    def _masked(self, body: Value, where: Expr, fill: str) -> Value:
        body, mask = self._matched(body, self.emit(where))
        return self._like(body, f"{body.code}.masked_fill(~{mask.code}, {fill})")

    def _reduce(self, expr: Reduce) -> Value:
        if expr.mask is not None:
            raise Unsupported(f"a pairwise {expr.op} besides the sum of weighted values")
        body = self._widen(self._whole(expr.body, *expr.axes), expr.kind)
        if expr.where is not None:
            fill = {"prod": "1", "all": "True", "any": "False"} | {
                "amax": f"lowest({body.code})",
                "amin": f"highest({body.code})",
                "logsumexp": 'float("-inf")',
            }
            whole = self._masked(body, expr.where, fill.get(expr.op, "0"))
        else:
            whole = body
        dims = tuple(d for d in whole.dims if d not in expr.axes)
        at = repr(tuple(self._at(whole, a) for a in expr.axes))
        grouped = whole.grouped if "h" in dims else ""
        count = ""
        if expr.op == "mean" and expr.where is not None:
            _, mask = self._matched(whole, self.emit(expr.where))
            spread = f"({mask.code}).expand({whole.code}.shape)"
            count = f"{spread}.sum({at}).clamp(min=1)"
        codes = {
            "sum": f"{whole.code}.sum({at})",
            "mean": f"{whole.code}.sum({at}) / {count}" if count else f"mean({whole.code}, {at})",
            "amax": f"amax({whole.code}, {at})",
            "amin": f"amin({whole.code}, {at})",
            "logsumexp": f"torch.logsumexp({whole.code}, {at})",
            "prod": f"product({whole.code}, {at})",
            "any": f"torch.any({whole.code}, {at})",
            "all": f"torch.all({whole.code}, {at})",
        }
        if expr.op == "argmax":
            raise Unsupported("argmax outside the kernels")
        return self.assign(codes[expr.op], dims, expr.kind, grouped)

    def _normalize(self, expr: Normalize) -> Value:
        if expr.op != "softmax" or expr.mask is not None:
            raise Unsupported(f"a pairwise {expr.op} outside the kernel")
        body = self._widen(self._whole(expr.body, *expr.axes), Kind.FLOAT)
        allowed = "None"
        if expr.where is not None:
            body, mask = self._matched(body, self.emit(expr.where))
            allowed = mask.code
        sink = "None"
        if expr.sink is not None:
            sink = self.aligned(self.wide(expr.sink), body.dims)
        at = repr(tuple(self._at(body, a) for a in expr.axes))
        return self._like(body, f"softmax({body.code}, {at}, {allowed}, {sink})")

    def _rope(self, expr: Rope) -> Value:
        body = self.emit(expr.body)
        dims = self.order({*body.dims, *(d for p in expr.positions for d in p.free)})
        base = self.emit(expr.base)
        places = [self._widen(self.wide(p), Kind.FLOAT) for p in expr.positions]
        if any(p.plain for p in places):
            raise Unsupported("a rotation by a constant position")
        inner = tuple(d for d in dims if d != expr.axis)
        if dims[-1] != expr.axis:
            raise Unsupported("a rotation of two channel axes")
        codes = ", ".join(self.aligned(p, inner) for p in places)
        ungroup = any("h" in p.dims for p in places)
        code = f"rope({self.aligned(body, dims, ungroup)}, [{codes}], {base.code})"
        return self.assign(code, dims, Kind.FLOAT, "" if ungroup else body.grouped)

    def _concat(self, axis: str, parts: tuple[tuple[str, Expr], ...]) -> Value:
        values = [(own, self._whole(part, own)) for own, part in parts]
        others = self.order({d for own, v in values for d in v.dims if d != own})
        groups = {v.grouped for _, v in values if "h" in v.dims}
        codes = [self.aligned(v, (*others, own), len(groups) > 1) for own, v in values]
        grouped = "" if len(groups) > 1 else next(iter(groups), "")
        code = f"concatenate([{', '.join(codes)}])"
        return self.assign(code, (*others, axis), Kind.FLOAT, grouped)


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
