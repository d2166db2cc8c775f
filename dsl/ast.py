"""The checked spec: every name resolved, every axis explicit.

A spec is index notation. Each expression is a scalar function of the *index variables* that
occur free in it (`free`): batch `b`, head `h`, token indices (`i`, `j`, `t`, `n`, and the second
indices that `index` makes), blocks, and channels. There are no vectors here: `k[j]` is the
scalar `k[b, h, j, d]` with `d` free, `dot(q[i], k[j])` is a `Contract` over `d`. Evaluated
densely, an expression is a tensor whose dimensions are its free variables, aligned by name.

The checker (`attnspec.dsl.check`) is the only thing that makes these nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TypeAlias, get_args

from attnspec.dsl.span import NOWHERE, Span


class Kind(StrEnum):
    """Type of a scalar."""

    BOOL = "bool"
    INT = "int"
    FLOAT = "float"


_NO_AXES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`kind` is the type, `free` the index variables the value depends on (set by subclasses)."""

    kind: Kind = field(repr=False)
    free: frozenset[str] = field(default=_NO_AXES, compare=False, repr=False)
    span: Span = field(default=NOWHERE, compare=False, repr=False)


def _set_free(node: Node, free: frozenset[str]) -> None:
    object.__setattr__(node, "free", free)


def _union(*nodes: Expr | None) -> frozenset[str]:
    return frozenset().union(*(n.free for n in nodes if n is not None))


@dataclass(frozen=True, slots=True)
class Literal(Node):
    value: bool | int | float


@dataclass(frozen=True, slots=True)
class Index(Node):
    """The value of an index variable: absolute position for tokens, block number, or 0..size-1."""

    axis: str

    def __post_init__(self) -> None:
        _set_free(self, frozenset({self.axis}))


@dataclass(frozen=True, slots=True)
class Coord(Node):
    """Coordinate `along` (a grid name such as `y`) of the position that token variable `axis` has.

    `grid` is the side whose grid is used: "i" or "j" (the same sizes when the spec has one grid).
    """

    axis: str
    along: str
    grid: str

    def __post_init__(self) -> None:
        _set_free(self, frozenset({self.axis}))


@dataclass(frozen=True, slots=True)
class Size(Node):
    """Number of indices of an axis: `Size("i")` is M, `Size("j")` N, `Size("d")` D, ...

    Sides of a grid are `Size("i.y")`, `Size("j.y")`; with one grid for both, always `Size("i.y")`.
    """

    of: str


@dataclass(frozen=True, slots=True)
class Last(Node):
    """The final time index of a recurrence over `axis` (the first position when it is reversed)."""

    axis: str


@dataclass(frozen=True, slots=True)
class GridIndex(Node):
    """The token at `coords` (row-major) of the grid of `grid` ("i" or "j"), as an index.

    Out of range when any coordinate is.
    """

    coords: tuple[Expr, ...]
    grid: str

    def __post_init__(self) -> None:
        _set_free(self, _union(*self.coords))


@dataclass(frozen=True, slots=True)
class Read(Node):
    """`name` (declaration, definition or state) at one index per axis of it, in its axes' order.

    A token axis is indexed by absolute position. For an operand with fewer heads the index at
    axis `h` is still the query head: head h stands at h // (H / heads). An axis of size 1 where
    `b` stands is read at 0. For a state the third axis is time, and time -1 (reverse: its size)
    is the initial value. With `pad`, an index outside the tensor gives that value.
    """

    name: str
    index: tuple[Expr, ...]
    pad: Expr | None = None

    def __post_init__(self) -> None:
        _set_free(self, _union(*self.index, self.pad))


@dataclass(frozen=True, slots=True)
class Apply(Node):
    """A pointwise operation on scalars. `op` is one of `OPS`; ints widen to float where needed.

    `where(c, a, b)` evaluates only the branch taken; `div` is real division, `floordiv` and `mod`
    floor as Python's do; `min`, `max`, `and`, `or` take two or more arguments.
    """

    op: str
    args: tuple[Expr, ...]

    def __post_init__(self) -> None:
        _set_free(self, _union(*self.args))


ARITHMETIC = frozenset({"neg", "add", "sub", "mul", "div", "floordiv", "mod", "pow"})
COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
LOGIC = frozenset({"and", "or", "not"})
FUNCTIONS = frozenset(
    {
        "abs",
        "min",
        "max",
        "clamp",
        "where",
        "floor",
        "ceil",
        "sqrt",
        "rsqrt",
        "exp",
        "exp2",
        "log",
        "log2",
        "log1p",
        "sin",
        "cos",
        "atan",
        "tanh",
        "sigmoid",
        "logsigmoid",
        "softplus",
        "relu",
        "leaky_relu",
        "elu",
        "silu",
        "gelu",
        "erf",
        "sign",
        "stopgrad",
    }
)
OPS = ARITHMETIC | COMPARISONS | LOGIC | FUNCTIONS


@dataclass(frozen=True, slots=True)
class Contract(Node):
    """Sum over `axes` of left * right: `dot` and `@`. Channel axes only, never masked."""

    axes: tuple[str, ...]
    left: Expr
    right: Expr

    def __post_init__(self) -> None:
        _set_free(self, _union(self.left, self.right) - set(self.axes))


@dataclass(frozen=True, slots=True)
class Reduce(Node):
    """A reduction over `axes`; `op` is one of `REDUCTIONS`.

    Only indices with `where` true take part and, when `mask` is (row, column), only pairs that
    the spec's mask allows, its i and j standing at those two variables. `argmax` has one axis,
    gives the index' value (a position for tokens), the lowest one on a tie; there too goes the
    gradient of `amax` and `amin`.
    Empty: sum, mean 0; prod 1; logsumexp, amax -inf; amin +inf; any false; all true; argmax 0.
    """

    op: str
    axes: tuple[str, ...]
    body: Expr
    where: Expr | None = None
    mask: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        free = _union(self.body, self.where) | frozenset(self.mask or ())
        _set_free(self, free - set(self.axes))


REDUCTIONS = frozenset({"sum", "mean", "amax", "amin", "prod", "any", "all", "argmax", "logsumexp"})


@dataclass(frozen=True, slots=True)
class Normalize(Node):
    """`softmax` or `entmax` of `body` over `axes`: a value at every index, 0 where excluded.

    `where` and `mask` are as in `Reduce`. `sink` (softmax) is one more logit, free of `axes`.
    `alpha` (entmax, one axis) is 2 for sparsemax; nothing included gives 0 everywhere.
    """

    op: str
    axes: tuple[str, ...]
    body: Expr
    where: Expr | None = None
    mask: tuple[str, str] | None = None
    sink: Expr | None = None
    alpha: Expr | None = None

    def __post_init__(self) -> None:
        free = _union(self.body, self.where, self.sink, self.alpha) | set(self.axes)
        _set_free(self, free | frozenset(self.mask or ()))


@dataclass(frozen=True, slots=True)
class Cumsum(Node):
    """Inclusive sum along `axis` in ascending order of the indices where `where` holds."""

    axis: str
    body: Expr
    where: Expr | None = None

    def __post_init__(self) -> None:
        _set_free(self, _union(self.body, self.where) | {self.axis})


@dataclass(frozen=True, slots=True)
class Rank(Node):
    """Place of `body` along `axis` in descending order, ties by lower index, among `where`.

    Excluded indices get the axis' size. `topk(c, x, k)` is `rank(c, x) < k`.
    """

    axis: str
    body: Expr
    where: Expr | None = None

    def __post_init__(self) -> None:
        _set_free(self, _union(self.body, self.where) | {self.axis})


@dataclass(frozen=True, slots=True)
class Rope(Node):
    """Rotary embedding of `body` along channel `axis` at one position for each channel group.

    With n positions the axis splits in n equal groups; in a group of width w channel c < w/2
    pairs with c + w/2 at angle p * base ** (-2 c / w):
    (x_c cos - x_{c+w/2} sin, x_{c+w/2} cos + x_c sin).
    """

    body: Expr
    axis: str
    positions: tuple[Expr, ...]
    base: Expr

    def __post_init__(self) -> None:
        _set_free(self, _union(self.body, *self.positions, self.base) | {self.axis})


@dataclass(frozen=True, slots=True)
class Concat(Node):
    """Channels of the parts one after another: `parts` are (its own axis, expression)."""

    axis: str
    parts: tuple[tuple[str, Expr], ...]

    def __post_init__(self) -> None:
        free = frozenset().union(*(part.free - {axis} for axis, part in self.parts))
        _set_free(self, free | {self.axis})


@dataclass(frozen=True, slots=True)
class Random(Node):
    """Counter-based uniform number in (0, 1) of (seed; b, h, row, column)."""

    seed: Expr
    row: str
    column: str

    def __post_init__(self) -> None:
        _set_free(self, self.seed.free | {"b", "h", self.row, self.column})


Expr: TypeAlias = (
    Literal
    | Index
    | Coord
    | Size
    | Last
    | GridIndex
    | Read
    | Apply
    | Contract
    | Reduce
    | Normalize
    | Cumsum
    | Rank
    | Rope
    | Concat
    | Random
)


class Role(StrEnum):
    """What an axis counts."""

    BATCH = "batch"
    HEAD = "head"
    QUERY = "query"  # i: M rows from q_start
    KEY = "key"  # j: N rows from k_start
    TIME = "time"  # t: N steps; M = N
    CHANNEL = "channel"  # d, e and every `axis`
    BLOCK = "block"  # `blocks c = j // length`
    ALIAS = "alias"  # a second index over `base`
    CONCAT = "concat"  # channels of several axes in a row


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis by the name of its index variable.

    `size` is the declared size (CHANNEL: None when the inputs give it), or the block length
    (BLOCK). `base` is the axis under an ALIAS or BLOCK; `n` is an ALIAS of `j`, `n.i` one of `i`.
    `parts` are a CONCAT's axes. Anonymous axes of a declaration are named `<tensor>.<place>`.
    """

    name: str
    role: Role
    size: Expr | None = None
    base: str | None = None
    parts: tuple[str, ...] = ()


class Form(StrEnum):
    """Which statement declared a name."""

    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    INPUT = "input"
    PARAM = "param"
    CONST = "const"


Values: TypeAlias = "float | int | bool | tuple[Values, ...]"


@dataclass(frozen=True, slots=True)
class Decl:
    """A declared tensor or scalar, in call order. Scalar consts are inlined, so never stand here.

    `axes` are all axes, `b` and `h` included, in order; a token axis is `i`, `j` or `t` (`n` is
    resolved to the side it lies on). `paired`: read at both `i` and `j`, so the call may give
    (for queries, for keys); `Read` with token index exactly `Index("i")` (or an alias of i) takes
    the former. `default` is a run-time scalar's default or a param's initial value, over `axes`;
    `values` is a list-valued default (and every const tensor).
    """

    name: str
    form: Form
    axes: tuple[str, ...]
    kind: Kind
    default: Expr | None = None
    values: Values | None = None
    where: Expr | None = None
    paired: bool = False
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Def:
    """A definition over exactly `axes` (the order in which `Read` indexes it).

    Lets with axes, and the clauses `score`, `weight`, `value` (over i, j), `gate`: b and h come
    first where the expression depends on them, then the written axes, then its channels.
    """

    name: str
    axes: tuple[str, ...]
    expr: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class State:
    """A recurrence over `time`: axes are (b, h, time, *its own).

    In `step`, reads of states at `Index(time)` are new values and at time - 1 (reverse: + 1) old
    ones; all states of the same time axis and direction advance together, each new value first
    being computed before it is read.
    """

    name: str
    axes: tuple[str, ...]
    time: str
    reverse: bool
    kind: Kind
    init: Expr
    step: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Return:
    """A further output over exactly `axes`."""

    name: str
    axes: tuple[str, ...]
    expr: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Grid:
    """Coordinate names of the token grid of a side ("i" or "j"), slowest first."""

    side: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """A checked spec.

    `defs` stand in dependency order. `mask` is the conjunction of the mask lines over (i, j);
    its Reduce and Normalize nodes, and those of definitions it uses, have `mask=None`. `output`
    is None for `output = none`; else its token variable is `token` ("i" or "t") and it has one
    channel axis, `channel`, besides b, h. `shared_grid`: both sides use one grid.
    `equal_sizes` are pairs of axes whose sizes the call must make equal (relabelled channels).
    """

    name: str
    title: str
    doc: str
    cites: tuple[str, ...]
    catalog: tuple[str, ...]
    axes: tuple[Axis, ...]
    decls: tuple[Decl, ...]
    requires: tuple[Expr, ...]
    grids: tuple[Grid, ...]
    shared_grid: bool
    defs: tuple[Def, ...]
    states: tuple[State, ...]
    mask: Expr | None
    causal: bool
    output: Expr | None
    token: str
    channel: str
    returns: tuple[Return, ...]
    equal_sizes: tuple[tuple[str, str], ...]
    text: str
    path: str

    def axis(self, name: str) -> Axis:
        """The axis called `name`; KeyError when there is none."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise KeyError(name)

    def decl(self, name: str) -> Decl | None:
        """The declaration called `name`, if any."""
        return next((d for d in self.decls if d.name == name), None)

    def definition(self, name: str) -> Def | None:
        """The definition called `name`, if any."""
        return next((d for d in self.defs if d.name == name), None)

    def state(self, name: str) -> State | None:
        """The state called `name`, if any."""
        return next((s for s in self.states if s.name == name), None)


def children(expr: Expr) -> Iterator[Expr]:
    """The expressions directly under `expr`, in order."""
    for name in EXPRESSION_FIELDS[type(expr)]:
        yield from _exprs(getattr(expr, name))


# The fields of each node class that may hold expressions.
EXPRESSION_FIELDS: dict[type, tuple[str, ...]] = {
    node: tuple(f.name for f in fields(node) if f.name not in ("kind", "free", "span"))
    for node in get_args(Expr)
}


def _exprs(value: object) -> Iterator[Expr]:
    if isinstance(value, Node):
        yield value  # type: ignore[misc]
    elif isinstance(value, tuple):
        for item in value:
            yield from _exprs(item)


def conjuncts(expr: Expr) -> Iterator[Expr]:
    """The parts of an `and`, however nested; a condition of any other kind is its own part."""
    if isinstance(expr, Apply) and expr.op == "and":
        for part in expr.args:
            yield from conjuncts(part)
    else:
        yield expr


def walk(expr: Expr) -> Iterator[Expr]:
    """`expr` and everything under it, each shared node once, parents before children."""
    seen: set[int] = set()
    stack: list[Expr] = [expr]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        stack.extend(reversed(list(children(node))))
