"""What a spec declares: names to statements, axes, grids. No expression is read here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from keyword import kwlist

from attnspec.dsl import syntax as s
from attnspec.dsl.ast import Role
from attnspec.dsl.check_report import Report, did_you_mean
from attnspec.dsl.span import NOWHERE, Span

STATEMENT_WORDS = frozenset(
    """attention cite catalog query key value input param const axis blocks index grid let mask
    score weight gate output return causal require state step reverse over""".split()
)
FUNCTION_WORDS = frozenset(
    """abs min max clamp where floor ceil sqrt rsqrt exp exp2 log log2 log1p sin cos atan tanh
    sigmoid logsigmoid softplus relu leaky_relu elu silu gelu erf sign stopgrad dot norm norm2
    outer concat normalize rmsnorm rope sum mean amax amin prod any all argmax logsumexp cumsum
    rank topk softmax entmax sparsemax random size""".split()
)
AXIS_WORDS = frozenset("bhijtnde")
SIZE_WORDS = {"B": "b", "H": "h", "M": "i", "N": "j", "D": "d", "E": "e"}
OTHER_WORDS = frozenset({"pi", "and", "or", "not", "in", "true", "false", "none"})
OTHER_WORDS |= {"int", "bool", "float", "pad"}
# A call gives every declared name as a keyword beside these, in Python.
CALL_WORDS = frozenset({"extras", "backend", "q_start", "k_start", "attend_given", *kwlist})
RESERVED = STATEMENT_WORDS | FUNCTION_WORDS | AXIS_WORDS | frozenset(SIZE_WORDS)
RESERVED |= OTHER_WORDS | CALL_WORDS

TOKENS = frozenset({Role.QUERY, Role.KEY, Role.TIME})


@dataclass(frozen=True, slots=True)
class AxisName:
    """An axis before its size is known; `root` is what an alias stands for, `family` its role."""

    name: str
    role: Role
    root: str
    family: Role
    size: s.Expr | None = None
    base: str | None = None
    span: Span = NOWHERE

    @property
    def is_channel(self) -> bool:
        """Whether an unbound index over it is a vector's axis."""
        return self.family in (Role.CHANNEL, Role.CONCAT)


def _builtin(
    name: str, role: Role, base: str | None = None, family: Role | None = None
) -> AxisName:
    return AxisName(name, role, base or name, family or role, base=base)


BUILTIN_AXES = {
    axis.name: axis
    for axis in (
        _builtin("b", Role.BATCH),
        _builtin("h", Role.HEAD),
        _builtin("i", Role.QUERY),
        _builtin("j", Role.KEY),
        _builtin("t", Role.TIME),
        _builtin("n", Role.ALIAS, "j", Role.KEY),
        _builtin("n.i", Role.ALIAS, "i", Role.QUERY),
        _builtin("d", Role.CHANNEL),
        _builtin("e", Role.CHANNEL),
    )
}

Definition = s.Declare | s.Let | s.LetFunction | s.Clause | s.StateDecl | s.ReturnStmt


@dataclass(slots=True)
class Names:
    """Every name of a spec by what it means; the implied operands and clauses stand in it too."""

    definitions: dict[str, Definition] = field(default_factory=dict)
    axes: dict[str, AxisName] = field(default_factory=lambda: dict(BUILTIN_AXES))
    grids: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared_grid: bool = False
    sizes: dict[str, str] = field(default_factory=lambda: dict(SIZE_WORDS))
    steps: dict[str, s.Step] = field(default_factory=dict)
    masks: list[s.Mask] = field(default_factory=list)
    requires: list[s.Require] = field(default_factory=list)
    causal: s.Causal | None = None
    implied: set[str] = field(default_factory=set)

    def known(self) -> list[str]:
        """Every name that an expression may say."""
        return [*self.definitions, *(a for a in self.axes if "." not in a), *self.sizes, "pi"]

    def grid_side(self, axis: str) -> str | None:
        """Whose grid token variable `axis` is laid out on: "i", "j", or None."""
        side = "i" if self.shared_grid or self.axes[axis].family is Role.QUERY else "j"
        return side if side in self.grids else None


def collect(file: s.File, report: Report) -> Names:
    """The names of `file`; doubly defined and reserved ones are reported."""
    names = Names()
    places: dict[str, Span] = {}
    for statement in file.statements:
        _collect_one(statement, names, places, report)
    _resolve_axes(names, report)
    _pair_states(names, report)
    _imply(file, names)
    return names


def _collect_one(
    statement: s.Statement, names: Names, places: dict[str, Span], report: Report
) -> None:
    match statement:
        case s.Declare() | s.Let() | s.StateDecl() | s.ReturnStmt() | s.LetFunction():
            if _claim(statement.name, statement.name_span, places, report):
                names.definitions[statement.name] = statement
            if isinstance(statement, s.LetFunction):
                _check_params(statement, report)
        case s.Clause():
            if _once(statement.name, statement.name_span, places, report):
                names.definitions[statement.name] = statement
        case s.AxisDecl(name, span, size):
            if _claim(name, span, places, report):
                names.axes[name] = AxisName(name, Role.CHANNEL, name, Role.CHANNEL, size, span=span)
        case s.BlocksDecl(name, span, base, length):
            if _claim(name, span, places, report):
                names.axes[name] = AxisName(name, Role.BLOCK, name, Role.BLOCK, length, base, span)
        case s.IndexDecl(name, span, base):
            if _claim(name, span, places, report):
                names.axes[name] = AxisName(name, Role.ALIAS, base, Role.ALIAS, None, base, span)
        case s.GridDecl():
            _collect_grid(statement, names, report)
        case s.Step(name, span):
            if name in names.steps:
                _twice(f"step {name}", span, names.steps[name].name_span, report)
            names.steps.setdefault(name, statement)
        case s.Mask():
            names.masks.append(statement)
        case s.Require():
            names.requires.append(statement)
        case s.Causal():
            names.causal = statement
        case s.Cite() | s.Catalog():
            pass


def _claim(name: str, span: Span, places: dict[str, Span], report: Report) -> bool:
    if name in RESERVED or name.startswith("_"):
        user = "the language" if name not in CALL_WORDS else "a call, or Python,"
        report.error(
            "A103",
            f"`{name}` is a reserved word",
            span,
            f"{user} uses this word itself"
            if not name.startswith("_")
            else "a leading underscore is for generated names",
            f"choose another name, for instance `my_{name.strip('_')}`",
        )
        if name in RESERVED - CALL_WORDS:
            return False  # elsewhere the word keeps the language's own meaning
    return _once(name, span, places, report)


def _once(name: str, span: Span, places: dict[str, Span], report: Report) -> bool:
    if name in places:
        _twice(name, span, places[name], report)
        return False
    places[name] = span
    return True


def _twice(name: str, span: Span, first: Span, report: Report) -> None:
    report.error(
        "A102",
        f"`{name}` is defined twice",
        span,
        "defined again",
        "remove one of the two, or give this one another name",
        ((first, "first defined here"),),
    )


def _check_params(function: s.LetFunction, report: Report) -> None:
    # A parameter hides an axis or a size of the same name, as a local name does in Python.
    words = STATEMENT_WORDS | FUNCTION_WORDS | OTHER_WORDS
    for place, param in enumerate(function.params):
        if param in words or param in function.params[:place]:
            why = "is a reserved word" if param in words else "is a parameter twice"
            report.error(
                "A103" if param in words else "A102",
                f"`{param}` {why}",
                function.name_span,
                f"a parameter of `{function.name}`",
                "choose another name for the parameter",
            )


def _collect_grid(grid: s.GridDecl, names: Names, report: Report) -> None:
    side = grid.side or "i"
    if side not in ("i", "j") or side in names.grids or (names.grids and names.shared_grid):
        report.error(
            "A111",
            "a second grid" if side in ("i", "j") else f"`{side}` has no grid of its own",
            grid.span,
            "the tokens of a side are laid out once",
            "write one `grid y, x`, or one `grid i: y, x` and one `grid j: y, x`",
        )
        return
    names.grids[side] = grid.names
    names.shared_grid = grid.side is None
    for name in grid.names:
        suffix = "" if grid.side is None else f"_{side}"
        names.sizes[f"G{name.upper()}{suffix}"] = f"{side}.{name}"


def _resolve_axes(names: Names, report: Report) -> None:
    """Let every alias know what it stands for."""
    for name, axis in list(names.axes.items()):
        if axis.role is Role.BLOCK and (
            axis.base not in names.axes or names.axes[axis.base].family not in TOKENS
        ):
            report.error(
                "A112",
                f"`{axis.base}` is no token axis",
                axis.span,
                "blocks are made of `i`, `j` or `t`",
                f"write `blocks {name} = j // length`",
            )
        if name in BUILTIN_AXES or axis.role is not Role.ALIAS:
            continue
        seen = {name}
        root: AxisName | None = axis
        while root is not None and root.role is Role.ALIAS and root.base is not None:
            root = names.axes.get(root.base)
            if root is None or root.name in seen:
                root = None
            else:
                seen.add(root.name)
        if root is None:
            known = [other for other in names.axes if other != name and "." not in other]
            report.error(
                "A101",
                f"unknown axis `{axis.base}`",
                axis.span,
                "an index runs over an axis that exists",
                did_you_mean(axis.base or "", known, "declare it with `axis`"),
            )
            names.axes[name] = replace(axis, root=name, family=Role.CHANNEL)
        else:
            names.axes[name] = replace(axis, root=root.name, family=root.role, base=root.name)


def _pair_states(names: Names, report: Report) -> None:
    states = {n for n, d in names.definitions.items() if isinstance(d, s.StateDecl)}
    for name, step in names.steps.items():
        if name not in states:
            report.error(
                "A113",
                f"`{name}` has a step but is no state",
                step.name_span,
                "not declared with `state`",
                did_you_mean(name, states, f"write `state {name}[…]` before it"),
            )
    for name in sorted(states - set(names.steps)):
        report.error(
            "A113",
            f"state `{name}` has no step",
            names.definitions[name].name_span,
            "it would never change",
            f"write `step {name}[t] = …`",
        )


def _imply(file: s.File, names: Names) -> None:
    """Add the operands and clauses that are meant without being written."""
    where = file.name_span

    def name(word: str) -> s.Name:
        return s.Name(word, span=where)

    def at(tensor: str, axis: str) -> s.Subscript:
        return s.Subscript(tensor, (name(axis),), (), span=where)

    def operand(form: str, word: str, channel: str) -> s.Declare:
        axes = (s.AxisSpec(name(channel), span=where),)
        return s.Declare(form, word, where, axes, None, None, None, span=where)

    def call(function: str, *args: s.Expr) -> s.Call:
        return s.Call(function, args, (), span=where)

    def binary(op: str, left: s.Expr, right: s.Expr) -> s.Binary:
        return s.Binary(op, left, right, span=where)

    total = call("sum", name("j"), binary("*", name("weight"), name("value")))
    gated = binary("*", name("gate"), total) if "gate" in names.definitions else total
    similarity = call("dot", at("q", "i"), at("k", "j"))
    implied: dict[str, Definition] = {
        "q": operand("query", "q", "d"),
        "k": operand("key", "k", "d"),
        "v": operand("value", "v", "e"),
    }
    clauses: dict[str, s.Expr] = {
        "score": binary("/", similarity, call("sqrt", name("D"))),
        "weight": call("softmax", name("score")),
        "value": at("v", "j"),
        "output": gated,
    }
    for word, expr in clauses.items():
        implied[word] = s.Clause(word, where, expr, span=where)
    for word, definition in implied.items():
        if word not in names.definitions and word not in names.axes:
            names.definitions[word] = definition
            names.implied.add(word)
