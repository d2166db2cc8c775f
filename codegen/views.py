"""What a template sees of a kernel: names and printed lines, no expressions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attnspec.codegen.lower import ORIGIN
from attnspec.codegen.plan_types import Leaf, Loop, Operand, PairPlan
from attnspec.codegen.spelling import TORCH, TRITON, number, spelled
from attnspec.codegen.tile import Atom, Op, names_used, needed
from attnspec.dsl.ast import Kind

# What a call decides for the kernels that have one of these operations.
_CHOICES = {"SHORT": {"near", "since"}, "COARSE": {"quick_tanh"}}
_CAST = {Kind.FLOAT: ".to(tl.float32)", Kind.BOOL: ".to(tl.int1)", Kind.INT: ""}


def text(atom: Atom) -> str:
    """An atom as code."""
    return atom if isinstance(atom, str) else number(atom)


def triton_line(op: Op) -> str:
    """One operation as a Triton statement."""
    if op.op == "load":
        table, index = text(op.args[0]), text(op.args[1])
        return f"{op.target} = look_up(at_{table}, {index}, T_{table}){_CAST[op.kind]}"
    form = TRITON[spelled(op.op, op.kind)]
    return f"{op.target} = {form.format(*(text(a) for a in op.args))}"


def _annotated(ops: list[Op]) -> list[str]:
    """Triton statements, the line of the spec that they come from above them."""
    lines: list[str] = []
    note = ""
    for op in ops:
        if op.note and op.note != note:
            lines.append(f"# {ascii(op.note)[1:-1]}")
        note = op.note
        lines.append(triton_line(op))
    return lines


def torch_line(op: Op) -> str:
    """One operation as a PyTorch statement over a tile's values."""
    if op.op == "load":
        return f"{op.target} = lookup({text(op.args[0])}, {text(op.args[1])})"
    form = TORCH[spelled(op.op, op.kind)]
    args = [text(a) for a in op.args]
    if _chooses_numbers(op):
        args[1] = f"torch.full((), {args[1]}, dtype=wide)"
    return f"{op.target} = {form.format(*args)}"


def takes_wide(op: Op) -> bool:
    """Whether the PyTorch statement of an operation names the dtype of sums, `wide`."""
    return op.op == "float" or _chooses_numbers(op)


def _chooses_numbers(op: Op) -> bool:
    """A choice between two numbers, which PyTorch would give its default dtype."""
    numbers = not any(isinstance(a, str) for a in op.args[1:])
    return op.op == "where" and op.kind is Kind.FLOAT and numbers


@dataclass(frozen=True, slots=True)
class Tensor:
    """A kernel's tensor argument: its strides by dimension (none where it is contiguous over all
    query heads), and how a tile of it is read."""

    name: str
    strides: tuple[str, ...]
    token: str = ""
    channel: str = ""
    cast: str = ""
    var: str = ""

    @property
    def tile_strides(self) -> str:
        """Strides from token to token and from channel to channel."""
        if not self.strides:
            return f"C_{self.channel}, 1"
        return f"s_{self.name}_{self.token}, s_{self.name}_c"


@dataclass(frozen=True, slots=True)
class Dot:
    name: str
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Gradient:
    """A gradient that the kernel makes. `other` is the tile it multiplies (dots), `after` a
    factor that is the same everywhere and so applied once; `first` of its operand."""

    name: str
    role: str
    operand: str
    value: Atom
    after: str = ""
    other: str = ""
    channel: str = ""
    index: str = ""
    first: bool = True

    @property
    def share(self) -> str:
        """The name of every pair's share, `dp` where the slope is a factor of the whole."""
        return "dp" if self.after or self.value == 1.0 else f"share_{self.name}"


@dataclass(frozen=True, slots=True)
class RunView:
    name: str
    ends: tuple[str, ...]
    full: bool


@dataclass(frozen=True, slots=True)
class LoopView:
    lines: tuple[str, ...]
    runs: tuple[RunView, ...]
    full: bool

    @property
    def names(self) -> str:
        """The runs' names as a tuple."""
        return _tuple(run.name for run in self.runs)


@dataclass(frozen=True, slots=True)
class PatchView:
    """Compact tiles, as texts: (sides, steps, shape) of a program's own tile and of those that its
    loop visits, parts of the latter, and names of what the own tile fixes."""

    own: str
    others: str
    others_grid: str
    others_sides: str
    shape: tuple[str, ...]
    ends: str
    rests: str


def loop_view(loop: Loop) -> LoopView:
    """A loop's runs as Triton code."""
    runs = tuple(
        RunView(
            f"run_{place}",
            tuple("None" if end is None else text(end) for end in run.ends),
            run.full,
        )
        for place, run in enumerate(loop.runs)
    )
    return LoopView(tuple(triton_line(op) for op in loop.ops), runs, loop.full)


def read_view(loop: Loop) -> LoopView:
    """A loop's runs as Triton code that reads their limits."""
    own = "p_limits + b64 * s_limits_b + h64 * s_limits_h + block * s_limits_t"
    runs, lines = [], [f"limits = {own}"]
    for place, run in enumerate(loop.runs):
        ends = tuple(f"{end}_{place}" for end in ("first", "last", "full_first", "full_last"))
        lines += [f"{end} = tl.load(limits + {4 * place + n})" for n, end in enumerate(ends)]
        runs.append(RunView(f"run_{place}", ends, run.full))
    return LoopView(tuple(lines), tuple(runs), loop.full)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: `side` is "rows" when a program owns queries, "columns" when keys."""

    name: str
    doc: str
    plan: PairPlan
    side: str
    gradients: tuple[Gradient, ...] = ()
    pointers: tuple[str, ...] = ()
    forward: bool = False

    # what is computed

    @property
    def softmax(self) -> bool:
        return self.plan.normalizer == "softmax"

    @property
    def score(self) -> str:
        logit = self.plan.logit
        return text(self.plan.score if logit is None else logit.kept)

    @property
    def raw(self) -> str:
        """What the maximum is taken of."""
        return "" if self.plan.logit is None else text(self.plan.logit.raw)

    @property
    def factor(self) -> str:
        """What makes a score of `raw`; empty where it is one."""
        logit = self.plan.logit
        return "" if logit is None or logit.factor == 1.0 else text(logit.factor)

    @property
    def lifted(self) -> str:
        """What the scores of a row lie above the whole logit; empty for nothing."""
        logit = self.plan.logit
        return "" if logit is None or logit.lifted == 0.0 else text(logit.lifted)

    @property
    def relative(self) -> bool:
        """Whether positions are counted from the program's own tile on."""
        return ORIGIN in self._used()

    @property
    def highest(self) -> str:
        """The number of the call that no score exceeds; empty where none is known."""
        logit = self.plan.logit
        return "" if logit is None or logit.between is None else text(logit.between[1])

    @property
    def keep(self) -> str:
        return "" if self.plan.keep is None else text(self.plan.keep)

    @property
    def cleans(self) -> bool:
        """Whether an operand that is not finite must be kept from the pairs that exclude it.

        A softmax needs no care: there, whoever runs the kernel passes finite operands, and the
        log-sum-exp makes every pair of a row not a number where one of them is not.
        """
        return bool(self.keep) and not self.softmax

    @property
    def sums_rows(self) -> bool:
        """Whether a gradient adds up several rows, so that rows past the last must not count."""
        return any(g.role in ("head", "table") for g in self.gradients)

    @property
    def _walk(self) -> Loop:
        found = self.plan.patches or self.plan
        return found.rows if self.side == "rows" else found.columns

    @property
    def loop(self) -> LoopView:
        ranges = self.plan.ranges
        if ranges is None:
            return loop_view(self._walk)
        return read_view(ranges.rows if self.side == "rows" else ranges.columns)

    @property
    def patches(self) -> PatchView | None:
        found = self.plan.patches
        if found is None:
            return None
        steps = _tuple(text(step) for step in found.steps)
        shapes = {side: _shape(side, found.axes) for side in "MN"}
        grids = {
            "M": _tuple("q_start + M" if n is None else text(n) for n in found.i_sides),
            "N": _tuple("k_start + N" if n is None else text(n) for n in found.j_sides),
        }
        own, other = "MN" if self.side == "rows" else "NM"
        return PatchView(
            f"{grids[own]}, {steps}, {_tuple(shapes[own])}",
            f"{grids[other]}, {steps}, {_tuple(shapes[other])}",
            f"{grids[other]}, {steps}",
            grids[other],
            shapes[other],
            ", ".join(f"lo_{axis}, hi_{axis}" for axis in found.axes),
            _targets(f"rest_{axis}" for axis in found.axes),
        )

    def _roots(self, masked: bool) -> list[Atom]:
        logit = self.plan.logit
        roots: list[Atom] = []
        if logit is not None:
            roots += [logit.raw, logit.factor] if self.forward else [logit.kept]
            roots.append(logit.lifted)
            if self.forward and logit.between is not None:
                roots.append(logit.between[1])
        elif self.forward or self.side == "columns":
            roots.append(self.plan.score)
        for g in self.gradients:
            roots.append(g.value)
            if g.index:
                roots.append(g.index)
        if masked and self.plan.keep is not None:
            roots.append(self.plan.keep)
        return roots

    def _ops(self, axes: str, masked: bool = True) -> list[str]:
        ops = needed(self.plan.ops, self._roots(masked))
        return _annotated([op for op in ops if op.axes == axes])

    @property
    def number_lines(self) -> list[str]:
        """Operations on numbers of the call alone: the same for every head."""
        ops = needed(self.plan.ops, self._roots(True))
        return _annotated([o for o in ops if o.axes == "" and _number(self.plan, o.target)])

    @property
    def head_lines(self) -> list[str]:
        """Operations on numbers of a head, after `number_lines`."""
        ops = needed(self.plan.ops, self._roots(True))
        return _annotated([o for o in ops if o.axes == "" and not _number(self.plan, o.target)])

    @property
    def row_lines(self) -> list[str]:
        return self._ops("i")

    @property
    def early_column_lines(self) -> list[str]:
        return self._ops("j")

    def column_lines(self, masked: bool) -> list[str]:
        return self._ops("j", masked)

    def tile_lines(self, masked: bool) -> list[str]:
        return self._ops("ij", masked)

    def product(self, g: Gradient) -> str:
        """This gradient's share of a pair."""
        return "dp" if g.after or g.value == 1.0 else f"dp * {text(g.value)}"

    @property
    def shares(self) -> list[str]:
        """The names of all shares, each once."""
        return list(dict.fromkeys(g.share for g in self.gradients))

    # what is read

    def _used(self) -> frozenset[str]:
        roots, loop, patches = self._roots(True), self._walk, self.plan.patches
        ops = (*needed(self.plan.ops, roots), *loop.ops)
        after = [g.value for g in self.gradients]
        grid: list[Atom] = []
        if patches is not None:
            sides = (*patches.i_sides, *patches.j_sides)
            grid = [*patches.steps, *(side for side in sides if side is not None)]
        return names_used(ops, [*roots, *loop.limits, *after, *grid])

    def _leaves(self, role: str) -> list[Tensor]:
        used = self._used()
        token = {"row": ("i",), "column": ("j",), "pair": ("i", "j")}.get(role, ())
        return [
            Tensor(
                leaf.operand.name,
                ("b", "h", *token),
                token[0] if token else "",
                cast=_CAST[leaf.kind],
                var=leaf.name,
            )
            for leaf in self.plan.leaves
            if leaf.role == role and leaf.name in used
        ]

    @property
    def head_leaves(self) -> list[Tensor]:
        return self._leaves("head")

    @property
    def row_leaves(self) -> list[Tensor]:
        return self._leaves("row")

    @property
    def column_leaves(self) -> list[Tensor]:
        return self._leaves("column")

    @property
    def pair_leaves(self) -> list[Tensor]:
        return self._leaves("pair")

    @property
    def tables(self) -> list[Tensor]:
        used = self._used()
        found = {x.operand.name for x in self.plan.leaves if x.role == "table" and x.name in used}
        return [Tensor(name, ("b", "h")) for name in sorted(found)]

    @property
    def visits(self) -> list[Tensor]:
        """What says which tiles to visit, where that is read from memory."""
        names = ["limits"] if self.plan.ranges is not None else []
        names += ["counts", "index"] if self.lists else []
        return [Tensor(name, ("b", "h", "t")) for name in names]

    @property
    def lists(self) -> bool:
        """Whether the loop goes by lists of tiles."""
        return self.plan.blocks is not None

    @property
    def dots(self) -> list[Dot]:
        return [Dot(d.name, d.left.name, d.right.name) for d in self.plan.dots]

    @property
    def lefts(self) -> list[Tensor]:
        return _tiles([d.left for d in self.plan.dots], "i")

    @property
    def rights(self) -> list[Tensor]:
        return _tiles([d.right for d in self.plan.dots], "j")

    @property
    def value(self) -> Tensor:
        return _tiles([self.plan.value], "j")[0]

    @property
    def d_out(self) -> Tensor:
        channel = self.plan.value.labels[3]
        return Tensor("d_out", (), "i", channel)

    @property
    def gate(self) -> Tensor | None:
        gate = self.plan.gate
        if gate is None:
            return None
        channel = gate.labels[3] if len(gate.labels) > 3 else ""
        return Tensor(gate.name, _strides(gate), "i", channel)

    @property
    def sink(self) -> Tensor | None:
        sink = self.plan.sink
        return None if sink is None else Tensor(sink.name, sink.labels, "i")

    @property
    def ends(self) -> list[Tensor]:
        """What is read once for a tile of rows, before or after its loop."""
        return [t for t in (self.gate, self.sink) if t is not None]

    @property
    def tensors(self) -> list[Tensor]:
        found = [*self.lefts, *self.rights, self.value]
        if self.forward:
            found += self.ends
        else:
            found.append(self.d_out)
        found += [*self.row_leaves, *self.column_leaves, *self.head_leaves]
        return [*found, *self.pair_leaves, *self.tables, *self.visits]

    @property
    def scalars(self) -> list[str]:
        used = self._used()
        names = [s.name for s in self.plan.scalars if s.name in used]
        return names + [f"T_{t.name}" for t in self.tables]

    @property
    def widths(self) -> list[str]:
        return widths(self.plan)

    @property
    def piece(self) -> str:
        """How much of a partial tile is taken at once: a compact one as a whole."""
        if self.plan.patches is None:
            return "EDGE"
        return "BLOCK_N" if self.side == "rows" else "BLOCK_M"

    @property
    def constants(self) -> list[str]:
        axes = () if self.plan.patches is None else self.plan.patches.axes
        table = ["T", "BLOCK_T"] if any(g.role == "table" for g in self.gradients) else []
        chosen = ["EDGE"] if self.piece == "EDGE" else []
        used = {op.op for op in needed(self.plan.ops, self._roots(True))}
        chosen += [name for name, ops in _CHOICES.items() if used & ops]
        chosen += ["FIXED"] if self.forward and self.highest else []
        return [*chosen, *_shape("M", axes), *_shape("N", axes), *table]

    @property
    def unspecialized(self) -> str:
        ints = {s.name for s in self.plan.scalars if s.kind is not Kind.FLOAT}
        names = ["M", "N", "q_start", "k_start"]
        names += [s for s in self.scalars if s in ints or s.startswith("T_")]
        names += [f"s_{t.name}_{d}" for t in self.visits for d in t.strides]  # as the lengths
        return ", ".join(f'"{n}"' for n in names)


def _tuple(items: Iterable[str]) -> str:
    """A tuple's text."""
    listed = list(items)
    return f"({', '.join(listed)}{',' if len(listed) == 1 else ''})"


def _targets(names: Iterable[str]) -> str:
    """Names to assign a tuple to."""
    listed = list(names)
    return f"({listed[0]},)" if len(listed) == 1 else ", ".join(listed)


def _shape(side: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a patch's lengths along each axis."""
    return tuple(f"{side}_{axis}" for axis in axes)


def widths(plan: PairPlan) -> list[str]:
    """The channel axes whose number and padded width a kernel is compiled for."""
    found = [d.left.labels[3] for d in plan.dots]
    found.append(plan.value.labels[3])
    return list(dict.fromkeys(found))


def loads(plan: PairPlan) -> tuple[str, str]:
    """How much a forward and a backward tile hold at once; `runtime.tiles.Need` says the words."""
    usual = "listed" if plan.blocks is not None else "light" if plan.keep is None else "masked"
    keep = [] if plan.keep is None else [plan.keep]
    ops = [op for op in needed(plan.ops, [plan.score, *keep]) if op.axes == "ij"]
    floats = [leaf for leaf in plan.leaves if leaf.kind is Kind.FLOAT]
    parts = len(floats) + (plan.gate is not None)
    pointwise = keep and plan.normalizer == "none"
    looked_up = any(leaf.role in ("pair", "table") for leaf in plan.leaves)
    paired = plan.patches is not None or looked_up
    forward = parts > 1 or pointwise or paired or (keep and len(ops) > 10)
    walks = plan.patches or plan
    full = plan.blocks is not None or (walks.rows.full and walks.columns.full)
    backward = (keep and not full) or pointwise or paired or len(floats) > 1
    return "heavy" if forward else usual, "heavy" if backward else usual


def _tiles(operands: list[Operand], token: str) -> list[Tensor]:
    unique = {o.name: o for o in operands}
    return [Tensor(o.name, _strides(o), token, o.labels[3]) for o in unique.values()]


def _strides(operand: Operand) -> tuple[str, ...]:
    """Dimensions as their strides are called: the channel is `c`, whatever its axis."""
    return (*operand.dims[:3], *("c" for _ in operand.dims[3:]))


def _leaf(plan: PairPlan, name: str) -> Leaf | None:
    return next((leaf for leaf in plan.leaves if leaf.name == name), None)


def _once(plan: PairPlan, value: Atom) -> str:
    """The factor to apply after the loop when the slope is one number for a head."""
    if value == 1.0:
        return ""
    axes = {op.target: op.axes for op in plan.ops}
    fixed = {s.name for s in plan.scalars} | {"LOG2E"}
    if isinstance(value, str) and not (axes.get(value) == "" or value in fixed):
        return ""
    return f" * {text(value)}"


def _dots(plan: PairPlan, side: str) -> list[Gradient]:
    found: list[Gradient] = []
    slopes = {g.of: g.value for g in plan.gradients}
    own = [d.left if side == "rows" else d.right for d in plan.dots]
    for dot, mine in zip(plan.dots, own, strict=True):
        other = dot.right if side == "rows" else dot.left
        shared = [o.name for o in own].count(mine.name) > 1
        value = slopes[dot.name]
        # a key head's sum runs over several query heads, each with its own numbers
        once = (
            "" if shared or (side == "columns" and not _number(plan, value)) else _once(plan, value)
        )
        first = mine.name not in {g.operand for g in found}
        found.append(
            Gradient(dot.name, "dot", mine.name, value, once, other.name, mine.labels[3], "", first)
        )
    return found


def _number(plan: PairPlan, value: Atom) -> bool:
    """Whether an atom is one number for the whole call."""
    if not isinstance(value, str):
        return True
    heads = {x.name for x in plan.leaves if x.role == "head"} | {"b", "h"}
    return not heads & names_used(needed(plan.ops, [value]), [value])


def _leaves(plan: PairPlan, roles: tuple[str, ...]) -> list[Gradient]:
    slopes = {g.of: g.value for g in plan.gradients}
    found = []
    for leaf in plan.leaves:
        if leaf.grad and leaf.role in roles:
            value = slopes[leaf.name]
            summed = leaf.role in ("row", "head", "table")
            once = _once(plan, value) if summed else ""
            index = "" if leaf.index is None else text(leaf.index)
            name = leaf.operand.name
            found.append(Gradient(leaf.name, leaf.role, name, value, once, index=index))
    return found


def kernels(plan: PairPlan) -> list[Kernel]:
    """Every kernel of a plan, the forward one first."""
    softmax = plan.normalizer == "softmax"
    outputs: tuple[str, ...] = ("lse",) if softmax else ()
    outputs += ("ungated",) if plan.gate is not None else ()
    saved: tuple[str, ...] = ("lse", "delta") if softmax else ()
    rows = [*_dots(plan, "rows"), *_leaves(plan, ("row", "head", "pair"))]
    columns = [*_dots(plan, "columns"), *_leaves(plan, ("column",))]

    def into(gradients: list[Gradient]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f"d_{g.operand}" for g in gradients))

    found = [
        Kernel("forward", "", plan, "rows", pointers=(*outputs, "out"), forward=True),
        Kernel(
            "backward_rows",
            "Gradients of what belongs to a query, a head or a pair: one tile of rows a program.",
            plan,
            "rows",
            tuple(rows),
            (*saved, *into(rows)),
        ),
        Kernel(
            "backward_columns",
            "Gradients of what belongs to a key: one tile of columns a program, every query head.",
            plan,
            "columns",
            tuple(columns),
            (*saved, f"d_{plan.value.name}", *into(columns)),
        ),
    ]
    for leaf in _leaves(plan, ("table",)):
        doc = f"Gradient of the table {leaf.operand.removeprefix('u_')}: one share a tile of rows."
        name = f"backward_{leaf.name}"
        found.append(Kernel(name, doc, plan, "rows", (leaf,), (*saved, f"d_{leaf.operand}")))
    return found
