"""The surface tree: what the author wrote, before any name has a meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from attnspec.dsl.span import NOWHERE, Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Anything with a place in the text; the place is no part of equality."""

    span: Span = field(default=NOWHERE, compare=False, repr=False)


# Expressions


@dataclass(frozen=True, slots=True)
class Num(Node):
    """A literal: int, float, or bool (`true`, `false`)."""

    value: bool | int | float


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A bare name: declaration, definition, axis, size (`M`, `GY`, ...), or `pi`."""

    id: str


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`op` is one of `-`, `+`, `not`."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """`op` is one of `+ - * / // % ** @ and or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Compare(Node):
    """A chain `first op0 rest0 op1 rest1 ...`; ops are `< <= > >= == != in`."""

    first: Expr
    ops: tuple[str, ...]
    rest: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Keyword(Node):
    """`name=value` inside a call or an index."""

    name: str
    value: Expr


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`func(args, keywords)`: a function of the language, a reduction, or a `let` function."""

    func: str
    args: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True)
class Subscript(Node):
    """`name[indices, keywords]`; keywords name a skipped axis, a coordinate, or `pad`."""

    name: str
    indices: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    """`name.coordinate`, as in `i.y`."""

    name: str
    coordinate: str


@dataclass(frozen=True, slots=True)
class Tuple(Node):
    """`(a, b)`: only as the value of `over=`."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class ListLit(Node):
    """`[a, b]`, possibly nested: only as the value of a param or const."""

    items: tuple[Expr, ...]


Expr: TypeAlias = (
    Num | Name | Unary | Binary | Compare | Call | Subscript | Attribute | Tuple | ListLit
)


# Statements


@dataclass(frozen=True, slots=True)
class AxisSpec(Node):
    """One axis in a declaration's brackets: a name (`Name`) or an anonymous size (`Expr`)."""

    expr: Expr


@dataclass(frozen=True, slots=True)
class Cite(Node):
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalog(Node):
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Declare(Node):
    """`query|key|value|input|param|const NAME[axes]: type = default where fact`."""

    form: str
    name: str
    name_span: Span
    axes: tuple[AxisSpec, ...]
    type: str | None  # "int", "bool", "float" or not given
    default: Expr | None
    where: Expr | None


@dataclass(frozen=True, slots=True)
class AxisDecl(Node):
    """`axis NAME` or `axis NAME = size`."""

    name: str
    name_span: Span
    size: Expr | None


@dataclass(frozen=True, slots=True)
class BlocksDecl(Node):
    """`blocks NAME = base // length`."""

    name: str
    name_span: Span
    base: str
    length: Expr
    base_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class IndexDecl(Node):
    """`index NAME = base`."""

    name: str
    name_span: Span
    base: str
    base_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class GridDecl(Node):
    """`grid y, x` (side None) or `grid i: y, x` / `grid j: y, x`."""

    side: str | None
    names: tuple[str, ...]
    name_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Let(Node):
    """`let NAME = EXPR` (axes None) or `let NAME[axes] = EXPR`."""

    name: str
    name_span: Span
    axes: tuple[str, ...] | None
    expr: Expr
    axis_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class LetFunction(Node):
    """`let f(x, y) = EXPR`."""

    name: str
    name_span: Span
    params: tuple[str, ...]
    expr: Expr
    param_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Mask(Node):
    expr: Expr


@dataclass(frozen=True, slots=True)
class Clause(Node):
    """`score|weight|value|gate|output = EXPR`; `output = none` has expr None."""

    name: str
    name_span: Span
    expr: Expr | None


@dataclass(frozen=True, slots=True)
class ReturnStmt(Node):
    """`return NAME[axes] = EXPR`."""

    name: str
    name_span: Span
    axes: tuple[str, ...]
    expr: Expr
    axis_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Causal(Node):
    pass


@dataclass(frozen=True, slots=True)
class Require(Node):
    expr: Expr


@dataclass(frozen=True, slots=True)
class StateDecl(Node):
    """`state NAME[axes] = initial` with `reverse` or `over AXIS`."""

    name: str
    name_span: Span
    axes: tuple[str, ...]
    init: Expr | None
    over: str | None
    reverse: bool
    axis_spans: tuple[Span, ...] = field(default=(), compare=False, repr=False, kw_only=True)
    over_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Step(Node):
    """`step NAME[t] = EXPR`."""

    name: str
    name_span: Span
    axis: str
    expr: Expr
    axis_span: Span = field(default=NOWHERE, compare=False, repr=False, kw_only=True)


Statement: TypeAlias = (
    Cite
    | Catalog
    | Declare
    | AxisDecl
    | BlocksDecl
    | IndexDecl
    | GridDecl
    | Let
    | LetFunction
    | Mask
    | Clause
    | ReturnStmt
    | Causal
    | Require
    | StateDecl
    | Step
)


@dataclass(frozen=True, slots=True)
class File(Node):
    """One `.attn` file."""

    name: str
    name_span: Span
    doc: str
    statements: tuple[Statement, ...]
    text: str
    path: str
