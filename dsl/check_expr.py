"""Elaborating expressions: from what the author wrote to index notation.

An expression is elaborated in a `Scope`, which says what is bound there. Plain lets and functions
are expanded where they are used, in the scope of the use; the results share nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Coord, Def, Expr, Index, Kind, Literal, Role
from attnspec.dsl.check_calls import call
from attnspec.dsl.check_index import Tensor, read
from attnspec.dsl.check_names import FUNCTION_WORDS, AxisName, Names
from attnspec.dsl.check_report import Failed, Report, did_you_mean, head
from attnspec.dsl.check_scope import Scope, Seen, Thunk
from attnspec.dsl.check_vectors import contract
from attnspec.dsl.span import NOWHERE, Span

MAX_DEPTH = 100  # expressions in expressions, definitions written out
MAX_STEPS = 20_000  # nodes elaborated in one statement

_BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "and": "and",
    "or": "or",
}
_COMPARE = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


class Elaborator:
    """The state of one elaboration: tables, results so far, and what was seen on the way."""

    def __init__(self, names: Names, report: Report, unmasked: frozenset[str]) -> None:
        self.names = names
        self.report = report
        self.unmasked = unmasked
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Literal] = {}
        self.sizes: dict[str, Expr] = {}
        self.defs: dict[str, Def] = {}
        self.failed: set[str] = set()
        self.seen: list[Seen] = []
        self.equal_sizes: dict[tuple[str, str], Span] = {}
        self.concats: dict[str, tuple[str, ...]] = {}
        self._plain: dict[tuple[str, Scope], Expr] = {}
        self._depth = 0
        self._steps = 0
        self._place = NOWHERE

    # Axes

    def axis(self, name: str) -> AxisName:
        """What is known of index variable `name` (anonymous and concatenated axes are channels)."""
        found = self.names.axes.get(name)
        if found is None:
            role = Role.CONCAT if name in self.concats else Role.CHANNEL
            return AxisName(name, role, name, role)
        return found

    def vector_axes(self, expr: Expr, scope: Scope) -> tuple[str, ...]:
        """The channel axes of `expr` that `scope` does not bind, sorted."""
        free = expr.free - scope.bound
        return tuple(sorted(axis for axis in free if self.axis(axis).is_channel))

    def soft_axes(self, expr: Expr, scope: Scope) -> tuple[str, ...]:
        """The channel axes of `expr` that the head of the definition names, sorted."""
        return tuple(sorted(expr.free & scope.soft))

    def variable(self, word: str, scope: Scope) -> str | None:
        """The index variable that `word` means in `scope`, if it means one."""
        for param, thunk in scope.args:
            if param == word:
                if isinstance(thunk.node, s.Name):
                    return self.variable(thunk.node.id, replace(scope, args=thunk.args))
                return None
        if word == "n":
            return scope.n
        return word if word in self.names.axes and "." not in word else None

    def saw(self, name: str, axis: str, written: str, index: Expr, owner: str | None) -> None:
        """Keep a read at a token axis."""
        self.seen.append(Seen(name, axis, written, index, owner))

    # Expressions

    def statement(self, node: s.Expr, scope: Scope) -> Expr:
        """Elaborate a whole expression of a statement, with fresh limits."""
        self._steps = 0
        self._depth = 0
        self._place = node.span
        return self.expr(node, scope)

    def expr(self, node: s.Expr, scope: Scope) -> Expr:
        """Elaborate `node`; Failed when an error in it was reported."""
        self._steps += 1
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH or self._steps > MAX_STEPS:
                raise self.too_large(self._place)
            return self._expr(node, scope)
        except build.KindError as problem:
            raise self.report.error(
                "A105",
                "wrong type",
                node.span,
                str(problem),
                "`where(x, 1, 0)` makes a bool a number, `x != 0` a number a bool",
            ) from None
        finally:
            self._depth -= 1

    def too_large(self, span: Span) -> Failed:
        """Report an expression that would blow up."""
        return self.report.error(
            "A110",
            "expression too large",
            span,
            "written out, it is too large or too deep",
            "give a part of it axes, `let x[i, j] = …`: such a definition is not written out",
        )

    def exprs(self, nodes: Iterable[s.Expr], scope: Scope) -> tuple[Expr, ...]:
        """Elaborate several parts, all of them even if one fails."""
        done: list[Expr] = []
        failed = False
        for node in nodes:
            try:
                done.append(self.expr(node, scope))
            except Failed:
                failed = True
        if failed:
            raise Failed
        return tuple(done)

    def _expr(self, node: s.Expr, scope: Scope) -> Expr:
        match node:
            case s.Num(value):
                return build.lit(value, node.span)
            case s.Name(word):
                return self._name(word, node.span, scope)
            case s.Unary(op, operand):
                return self._unary(op, operand, node.span, scope)
            case s.Binary("@", left, right):
                a, b = self.exprs((left, right), scope)
                return contract(self, a, b, node.span, scope)
            case s.Binary(op, left, right):
                return build.apply(_BINARY[op], *self.exprs((left, right), scope), span=node.span)
            case s.Compare():
                return self._compare(node, scope)
            case s.Call():
                return call(self, node, scope)
            case s.Subscript(name, indices, keywords):
                return self._subscript(name, indices, keywords, node.span, scope)
            case s.Attribute(name, coordinate):
                return self._coordinate(name, coordinate, node.span, scope)
            case s.Tuple():
                what, help = "a tuple stands only after `over=`", "write one expression here"
            case s.ListLit():
                what, help = (
                    "a list stands only as the value of a param or const",
                    ("declare a `const` with it and read that"),
                )
        raise self.report.error("A112", what, node.span, "not a value", help)

    def _unary(self, op: str, operand: s.Expr, span: Span, scope: Scope) -> Expr:
        value = self.expr(operand, scope)
        if op == "not":
            return build.apply("not", value, span=span)
        if isinstance(value, Literal) and not isinstance(value.value, bool):
            return build.lit(-value.value if op == "-" else value.value, span)
        negated = build.apply("neg", value, span=span)
        return negated if op == "-" else value

    def _compare(self, node: s.Compare, scope: Scope) -> Expr:
        parts: list[Expr] = []
        left = node.first
        for op, right in zip(node.ops, node.rest, strict=True):
            if op == "in":
                parts.append(self._inside(left, right, node.span, scope))
            else:
                a, b = self.exprs((left, right), scope)
                parts.append(build.apply(_COMPARE[op], a, b, span=node.span))
            left = right
        return parts[0] if len(parts) == 1 else build.apply("and", *parts, span=node.span)

    def _inside(self, left: s.Expr, right: s.Expr, span: Span, scope: Scope) -> Expr:
        """`x in c`: position x lies in block c."""
        position = self.expr(left, scope)
        block = self.variable(right.id, scope) if isinstance(right, s.Name) else None
        if block is None or self.axis(block).family is not Role.BLOCK:
            raise self.report.error(
                "A112",
                "not a block",
                right.span,
                "`in` asks whether a position lies in a block",
                "declare the block's axis with `blocks c = j // 64`",
            )
        length = self._block_length(block)
        where = build.apply("floordiv", position, length, span=span)
        return build.apply("eq", where, self._index(block, right.span, scope), span=span)

    def _block_length(self, block: str) -> Expr:
        """The length of a block of axis `block`."""
        size = self.names.axes[self.axis(block).root].size
        if size is None:
            raise Failed
        return self.expr(size, Scope())

    # Names

    def _name(self, word: str, span: Span, scope: Scope) -> Expr:
        for param, thunk in scope.args:
            if param == word:
                inner = replace(scope, args=thunk.args, masked=thunk.masked)
                return self.expr(thunk.node, inner)
        axis = self.variable(word, scope)
        if axis is not None:
            return self._index(axis, span, scope)
        if word in self.names.sizes:
            return build.size(self.names.sizes[word], span)
        if word == "pi":
            return build.lit(math.pi, span)
        return self._subscript(word, (), (), span, scope, bare=True)

    def _index(self, axis: str, span: Span, scope: Scope) -> Index:
        if not scope.binds(axis) and not self.axis(axis).is_channel:
            raise self.unbound(axis, span, scope)
        return build.index(axis, span)

    def unbound(self, axis: str, span: Span, scope: Scope, what: str = "") -> Failed:
        """Report an axis that is used where nothing binds it."""
        word = axis.split(".")[0]
        bound = ", ".join(f"`{a.split('.')[0]}`" for a in sorted(scope.bound)) or "only `b` and `h`"
        return self.report.error(
            "A104",
            f"axis `{word}` is not bound here",
            span,
            what or f"bound here: {bound}",
            f"reduce over it, as in `sum({word}, …)`, or bind it where this is defined,"
            f" as in `let x[{word}] = …`",
        )

    def _coordinate(self, name: str, along: str, span: Span, scope: Scope) -> Expr:
        axis = self.variable(name, scope)
        if axis is None:
            raise self.report.error(
                "A112",
                f"`{name}` is no index",
                span,
                "coordinates belong to token indices",
                "write `i.y` or `j.y`",
            )
        self._index(axis, span, scope)
        return Coord(axis, along, self.side_of(axis, along, span), kind=Kind.INT, span=span)

    def side_of(self, axis: str, along: str, span: Span) -> str:
        """The grid on which `axis` has a coordinate `along`."""
        side = (
            self.names.grid_side(axis)
            if self.axis(axis).family
            in (
                Role.QUERY,
                Role.KEY,
                Role.TIME,
            )
            else None
        )
        coordinates = self.names.grids[side] if side else ()
        if side is None or along not in coordinates:
            raise self.report.error(
                "A101",
                f"unknown coordinate `{along}`",
                span,
                f"`{axis.split('.')[0]}` has "
                + (", ".join(f"`{c}`" for c in coordinates) or "no grid"),
                did_you_mean(
                    along,
                    coordinates,
                    f"write `{axis.split('.')[0]}.{coordinates[0]}`"
                    if coordinates
                    else "declare the layout with `grid y, x`",
                ),
            )
        return side

    def _subscript(
        self,
        name: str,
        indices: tuple[s.Expr, ...],
        keywords: tuple[s.Keyword, ...],
        span: Span,
        scope: Scope,
        bare: bool = False,
    ) -> Expr:
        if name in self.failed:
            raise Failed
        if name in self.constants and bare:
            return replace(self.constants[name], span=span)
        if name in self.tensors:
            return read(self, self.tensors[name], indices, keywords, span, scope)
        definition = self.names.definitions.get(name)
        if isinstance(definition, s.Let) and definition.axes is None and bare:
            return self._expand(definition, scope)
        raise self._unreadable(name, span, scope)

    def _unreadable(self, name: str, span: Span, scope: Scope) -> Failed:
        definition = self.names.definitions.get(name)
        if isinstance(definition, s.LetFunction) or name in FUNCTION_WORDS:
            return self.report.error(
                "A112",
                f"`{name}` is a function",
                span,
                "not called",
                f"give it arguments in parentheses: `{name}(…)`",
            )
        if isinstance(definition, s.Let):
            return self.report.error(
                "A107",
                f"`{name}` has no axes to index",
                span,
                "a plain `let` is written out where it is used",
                f"define it with axes, `let {name}[i, j] = …`, or use it bare",
            )
        if name in self.constants or self.variable(name, scope) or name in self.names.sizes:
            return self.report.error(
                "A107", f"`{name}` is no tensor", span, "it has no axes to index", "use it bare"
            )
        if any(param == name for param, _ in scope.args):
            return self.report.error(
                "A107",
                f"parameter `{name}` is no tensor",
                span,
                "functions take scalars, vectors and indices",
                "pass the element that is meant",
            )
        if definition is not None:
            return Failed()
        known = [*self.names.known(), *(param for param, _ in scope.args)]
        return self.report.error(
            "A101",
            f"unknown name `{name}`",
            head(span, name),
            "not declared",
            did_you_mean(name, known, f"declare it, for instance `input {name}[b, h, j]`"),
        )

    def _expand(self, let: s.Let, scope: Scope) -> Expr:
        """A plain let, written out."""
        inner = replace(scope, args=(), masked=let.name not in self.unmasked)
        key = (let.name, inner)
        if key not in self._plain:
            self._plain[key] = self.expr(let.expr, inner)
        return self._plain[key]

    def expand_call(self, function: s.LetFunction, node: s.Call, scope: Scope) -> Expr:
        """A call of a function, written out."""
        if len(node.args) != len(function.params) or node.keywords:
            raise self.report.error(
                "A106",
                f"`{function.name}` takes {len(function.params)} arguments",
                node.span,
                f"{len(node.args)} given" if not node.keywords else "keywords given",
                f"write `{function.name}({', '.join(function.params)})`",
            )
        thunks = (Thunk(arg, scope.args, scope.masked) for arg in node.args)
        args = tuple(zip(function.params, thunks, strict=True))
        masked = function.name not in self.unmasked
        return self.expr(function.expr, replace(scope, args=args, masked=masked))

    def numeric(self, expr: Expr, what: str) -> None:
        """Refuse a bool."""
        if expr.kind is Kind.BOOL:
            raise self.report.error(
                "A105",
                "wrong type",
                expr.span,
                f"a bool in {what}",
                "turn a bool into a number with `where(x, 1, 0)`",
            )
