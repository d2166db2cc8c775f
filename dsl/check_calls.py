"""Elaborating calls: the language's functions, reductions and normalisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attnspec.dsl import build
from attnspec.dsl import syntax as s
from attnspec.dsl.ast import (
    REDUCTIONS,
    Cumsum,
    Expr,
    Kind,
    Normalize,
    Random,
    Rank,
    Reduce,
    Role,
)
from attnspec.dsl.check_arguments import count, options
from attnspec.dsl.check_names import FUNCTION_WORDS
from attnspec.dsl.check_report import Failed, did_you_mean, head
from attnspec.dsl.check_scope import Scope
from attnspec.dsl.check_vectors import concat, dot, norm, outer, rope

if TYPE_CHECKING:
    from attnspec.dsl.check_expr import Elaborator

# How many arguments a pointwise function takes: at least, at most.
_SCALAR = dict.fromkeys(
    [
        "abs",
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
        "elu",
        "silu",
        "gelu",
        "erf",
        "sign",
        "stopgrad",
    ],
    (1, 1),
) | {"min": (2, 99), "max": (2, 99), "clamp": (3, 3), "where": (3, 3), "leaky_relu": (1, 2)}


def call(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """A call of anything."""
    name = node.func
    definition = el.names.definitions.get(name)
    if isinstance(definition, s.LetFunction):
        if name in el.failed:
            raise Failed
        return el.expand_call(definition, node, scope)
    if name in _SCALAR:
        count(el, node, *_SCALAR[name])
        args = list(el.exprs(node.args, scope))
        if name == "leaky_relu" and len(args) == 1:
            args.append(build.lit(0.01))
        return build.apply(name, *args, span=node.span)
    if name in REDUCTIONS:
        return _reduce(el, node, scope)
    special = _SPECIAL.get(name)
    if special is None:
        raise _unknown(el, node)
    return special(el, node, scope)


def _unknown(el: Elaborator, node: s.Call) -> Exception:
    known = el.names.known()
    if node.func in known:
        return el.report.error(
            "A112",
            f"`{node.func}` is no function",
            node.span,
            "it cannot be called",
            f"index it with brackets: `{node.func}[…]`",
        )
    functions = [n for n, d in el.names.definitions.items() if isinstance(d, s.LetFunction)]
    return el.report.error(
        "A101",
        f"unknown function `{node.func}`",
        head(node.span, node.func),
        "not a function of the language or of this file",
        did_you_mean(
            node.func, [*FUNCTION_WORDS, *functions], f"define it: `let {node.func}(x) = …`"
        ),
    )


def _axis(el: Elaborator, node: s.Expr, scope: Scope) -> str:
    """An axis by its name."""
    axis = el.variable(node.id, scope) if isinstance(node, s.Name) else None
    if axis is None:
        word = node.id if isinstance(node, s.Name) else ""
        raise el.report.error(
            "A112",
            f"`{word}` is no axis" if word else "an axis is expected",
            node.span,
            "the axes come first, then the expression",
            did_you_mean(word, [a for a in el.names.axes if "." not in a], "write `sum(j, …)`"),
        )
    return axis


def _where(el: Elaborator, node: s.Call, scope: Scope) -> Expr | None:
    option = options(node).get("where")
    if option is None:
        return None
    condition = el.expr(option, scope)
    if condition.kind is not Kind.BOOL:
        raise el.report.error(
            "A105", "`where=` takes a bool", option.span, f"this is {condition.kind}", "compare it"
        )
    return condition


def _mask(
    el: Elaborator, axes: tuple[str, ...], node: s.Call, scope: Scope
) -> tuple[str, str] | None:
    """The pair of variables at which the spec's mask acts on an operation over `axes`."""
    if not el.names.masks or not scope.masked:
        return None
    candidates = [a for a in el.names.axes if a not in ("n", "n.i")]
    rows = [a for a in candidates if el.names.axes[a].root == "i"]
    columns = [a for a in candidates if el.names.axes[a].root == "j"]
    over_rows = [a for a in rows if a in axes]
    over_columns = [a for a in columns if a in axes]
    if len(over_rows) > 1 or len(over_columns) > 1:
        raise el.report.error(
            "A115",
            "two indices of one side in a masked reduction",
            node.span,
            "which of them the mask's pairs mean is not clear",
            "nest two reductions, one for each index",
        )
    rows = over_rows or [a for a in rows if scope.binds(a)]
    columns = over_columns or [a for a in columns if scope.binds(a)]
    if not (over_rows or over_columns) or not rows or not columns:
        return None
    return rows[0], columns[0]


def _reduce(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    count(el, node, 2, 2 if node.func == "argmax" else 99, "where")
    axes = tuple(dict.fromkeys(_axis(el, arg, scope) for arg in node.args[:-1]))
    inner = scope.bind(*axes)
    body = el.expr(node.args[-1], inner)
    where = _where(el, node, inner)
    logical = node.func in ("any", "all")
    if (body.kind is Kind.BOOL) != logical:
        raise el.report.error(
            "A105",
            "wrong type",
            node.args[-1].span,
            f"`{node.func}` takes {'bools' if logical else 'numbers'}, this is {body.kind}",
            "compare it" if logical else "count with `sum(j, 1, where=…)`",
        )
    kind = body.kind
    if node.func in ("mean", "logsumexp"):
        kind = Kind.FLOAT
    elif node.func == "argmax":
        kind = Kind.INT
    mask = _mask(el, axes, node, scope)
    return Reduce(node.func, axes, body, where, mask, kind=kind, span=node.span)


def _normalize(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    extra = {"softmax": ("sink",), "entmax": ("alpha",), "sparsemax": ()}[node.func]
    count(el, node, 1, 1, "over", "where", *extra)
    axes = _over(el, node, scope)
    inner = scope.bind(*axes)
    body = el.expr(node.args[0], inner)
    el.numeric(body, f"`{node.func}`")
    where = _where(el, node, inner)
    given = options(node)
    sink = _free_of(el, given.get("sink"), axes, scope)
    alpha = _free_of(el, given.get("alpha"), axes, scope)
    if node.func == "sparsemax":
        alpha = build.lit(2.0, node.span)
    elif node.func == "entmax" and alpha is None:
        alpha = build.lit(1.5, node.span)
    if alpha is not None and len(axes) != 1:
        raise el.report.error(
            "A106", f"`{node.func}` runs over one axis", node.span, "several given", "name one"
        )
    op = "softmax" if node.func == "softmax" else "entmax"
    mask = _mask(el, axes, node, scope)
    return Normalize(op, axes, body, where, mask, sink, alpha, kind=Kind.FLOAT, span=node.span)


def _over(el: Elaborator, node: s.Call, scope: Scope) -> tuple[str, ...]:
    over = options(node).get("over")
    if over is not None:
        items = over.items if isinstance(over, s.Tuple) else (over,)
        return tuple(dict.fromkeys(_axis(el, item, scope) for item in items))
    if not scope.binds("j"):
        raise el.report.error(
            "A104",
            f"`{node.func}` needs an axis here",
            node.span,
            "it runs over `j` where `j` is bound, and here it is not",
            f"say which: `{node.func}(…, over=j)`",
        )
    return ("j",)


def _free_of(
    el: Elaborator, node: s.Expr | None, axes: tuple[str, ...], scope: Scope
) -> Expr | None:
    """An option that must not depend on the axes normalised over."""
    if node is None:
        return None
    value = el.expr(node, scope)
    el.numeric(value, "an option")
    if value.free & set(axes):
        raise el.report.error(
            "A104",
            "depends on the axis normalised over",
            node.span,
            f"it varies along {', '.join(f'`{a}`' for a in axes if a in value.free)}",
            "reduce it first, for instance with `logsumexp`",
        )
    return value


def _ordered(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    """`cumsum` and `rank`."""
    count(el, node, 2, 2, "where")
    axis = _axis(el, node.args[0], scope)
    inner = scope.bind(axis)
    body = el.expr(node.args[1], inner)
    el.numeric(body, f"`{node.func}`")
    where = _where(el, node, inner)
    if not scope.binds(axis) and not el.axis(axis).is_channel:
        raise el.unbound(axis, node.span, scope)
    if node.func == "cumsum":
        return Cumsum(axis, body, where, kind=body.kind, span=node.span)
    return Rank(axis, body, where, kind=Kind.INT, span=node.span)


def _topk(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    count(el, node, 3, 3, "where")
    rank = s.Call("rank", node.args[:2], node.keywords, span=node.span)
    place = _ordered(el, rank, scope)
    chosen = build.apply("lt", place, el.expr(node.args[2], scope), span=node.span)
    if isinstance(place, Rank) and place.where is not None:
        # An excluded index has rank `size`, which a large k would let in.
        return build.apply("and", place.where, chosen, span=node.span)
    return chosen


def _random(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    count(el, node, 1, 1)
    (seed,) = el.exprs(node.args, scope)
    if seed.kind is not Kind.INT:
        raise el.report.error(
            "A105", "a seed is an int", seed.span, f"this is {seed.kind}", "declare it `: int`"
        )
    bound = [a for a, known in el.names.axes.items() if scope.binds(a)]
    rows = [a for a in bound if el.axis(a).family is Role.QUERY]
    columns = [a for a in bound if el.axis(a).family is Role.KEY]
    if not rows or not columns:
        raise el.unbound("j" if rows else "i", node.span, scope)
    return Random(seed, rows[0], columns[0], kind=Kind.FLOAT, span=node.span)


def _size(el: Elaborator, node: s.Call, scope: Scope) -> Expr:
    count(el, node, 1, 1)
    (arg,) = node.args
    if isinstance(arg, s.Attribute):
        axis = el.variable(arg.name, scope)
        if axis is not None:
            side = el.side_of(axis, arg.coordinate, arg.span)
            return build.size(f"{side}.{arg.coordinate}", node.span)
    return build.size(el.axis(_axis(el, arg, scope)).root, node.span)


_SPECIAL: Mapping[str, Callable[[Elaborator, s.Call, Scope], Expr]] = {
    "softmax": _normalize,
    "entmax": _normalize,
    "sparsemax": _normalize,
    "cumsum": _ordered,
    "rank": _ordered,
    "topk": _topk,
    "dot": dot,
    "outer": outer,
    "norm": norm,
    "norm2": norm,
    "normalize": norm,
    "rmsnorm": norm,
    "concat": concat,
    "rope": rope,
    "random": _random,
    "size": _size,
}
