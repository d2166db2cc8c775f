"""Plan: how kernels compute a spec, as data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from attnspec.codegen.tile import Atom, Op, names_used
from attnspec.dsl.ast import Expr, Kind, Reduce

# "blocked" is the definition on a block of tokens at a time, "dense" that on all of them.
Lowering: TypeAlias = Literal["fused", "host", "scan", "select", "blocked", "dense"]
Role: TypeAlias = Literal[
    "row",
    "column",
    "head",
    "table",
    "row_table",
    "column_table",
    "pair",
    "row_blocks",
    "column_blocks",
]
TABLES = ("table", "row_table", "column_table")  # looked up at an index of both tokens
WIDTHS = {"map": "N", "entries": "entries", "blocks": "blocks"}  # how many there are of a query
BLOCKED = ("row_blocks", "column_blocks")  # one number for a block of tokens of one side
# What a pass gives for every query: a vector, a number, a number for every key, for every entry of
# a table or for every block of keys, the position of a key, a threshold that is searched for, or
# the cuts around the largest numbers.
Result: TypeAlias = Literal[
    "vector", "number", "map", "entries", "blocks", "position", "threshold", "cuts"
]


UNIT = "unit"  # the channel of a value that is a number


class Unsupported(Exception):
    """No kernel covers this yet; the text says what, and becomes the stage's `why`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the computation: `name` is the definition it makes."""

    name: str
    kind: Literal["host", "pairwise", "scan", "select"]
    lowering: Lowering
    why: str = ""


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that the host stage makes and the kernels read.

    `dims` are its axes in order as kernels call them, rows `i` and columns `j`; `tokens` those
    that are called otherwise in the spec, by what kernels call them. What kernels take for its
    heads are the indices of the axes `lanes` and of `h`, for its channel those of all of `joined`.
    """

    name: str
    expr: Expr
    dims: tuple[str, ...]
    tokens: tuple[tuple[str, str], ...] = ()
    lanes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()

    @property
    def own(self) -> tuple[str, ...]:
        """Its `dims` as the spec calls them, without the lanes."""
        names = dict(self.tokens)
        return tuple(names.get(d, d) for d in self.dims)

    @property
    def axes(self) -> tuple[str, ...]:
        """Its axes in order as the spec calls them."""
        names = dict(self.tokens)
        lead, rest = (self.dims[:-1], self.joined) if self.joined else (self.dims, ())
        found = tuple(names.get(d, d) for d in (*lead, *rest))
        # a lane that is a channel of the operand, too, is another index of it
        lanes = ("" if lane in found else lane for lane in self.lanes)
        return (*found[:1], *lanes, *found[1:])

    @property
    def channels(self) -> tuple[str, ...]:
        """Those after its batches, heads and tokens."""
        return self.axes[3 + len(self.lanes) :]

    @property
    def labels(self) -> tuple[str, ...]:
        """`dims` as parts of names: the axis of a concatenation is called `e+r`, that of pairs of
        channels `d.2`."""
        signs = {"+": "__", "*": "_by_", ".": "_over_"}
        return tuple("".join(signs.get(c, c) for c in d) for d in self.dims)


@dataclass(frozen=True, slots=True)
class Dot:
    """A dot product of a row operand and a column operand, the tile `name`."""

    name: str
    left: Operand
    right: Operand


@dataclass(frozen=True, slots=True)
class Leaf:
    """A per-row, per-column, per-head or looked-up number that the tile computation reads.

    A `table` is read at the flat index `index` over its dimensions after b and h, a `row_table` or
    `column_table` over those after its token; a `pair` at (row, column), `column_blocks` at (row,
    block of columns), `row_blocks` at (block of rows, column). `grad`: its gradient is
    generated. `repeated`: the entries that two pairs of the table's token may both read; None
    where that may be any.
    """

    name: str
    role: Role
    operand: Operand
    kind: Kind
    grad: bool
    index: Atom | None = None
    repeated: tuple[Atom, ...] | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the host makes `expr`, of one token at most, and what either way costs, in the unit
    of keep.py."""

    expr: Expr
    kept: bool
    recompute: int
    keep: int


@dataclass(frozen=True, slots=True)
class Form:
    """Whether the backward expands a function, and what its loops take a pair either way."""

    function: str
    expanded: bool
    whole: int
    parts: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number known at the call: from sizes and run-time scalars alone."""

    name: str
    expr: Expr
    kind: Kind


@dataclass(frozen=True, slots=True)
class Gradient:
    """d(score or weight) / d(leaf or dot): an atom of the backward tile computation."""

    of: str
    value: Atom


CHANNEL = "channel"  # what a loop over channels calls the one that it is at


@dataclass(frozen=True)
class ChannelSum:
    """A sum over `channel` of a pair's terms, the tile `name`; or (`op` "amax") the largest term,
    or (`op` "place") the channel of the first largest one where `where` holds, -1 where it never
    does.

    A term is computed by `ops` from one element of each of `vectors`, whose operands have the
    channel as their last axis; it is `value`, and `gradients` are its derivatives. `beside` are
    tiles that the same loop sums up in the backward, each with its terms: the derivatives of the
    sum to numbers of the pair.
    """

    name: str
    channel: str
    vectors: tuple[Leaf, ...]
    ops: tuple[Op, ...]
    value: Atom
    gradients: tuple[Gradient, ...]
    op: Literal["sum", "amax", "place"] = "sum"
    where: Atom = True
    beside: tuple[tuple[str, Atom], ...] = ()

    @property
    def label(self) -> str:
        """The channel as part of names."""
        return self.vectors[0].operand.labels[-1]

    @cached_property
    def outside(self) -> tuple[str, ...]:
        """The values of a pair that the terms read besides."""
        own = {op.target for op in self.ops} | {v.name for v in self.vectors} | {CHANNEL}
        return tuple(sorted(names_used(self.ops, self.roots) - own))

    @property
    def roots(self) -> tuple[Atom, ...]:
        """What is computed at each channel."""
        slopes = (g.value for g in self.gradients)
        return self.value, self.where, *(value for _, value in self.beside), *slopes


@dataclass(frozen=True, slots=True)
class Scan:
    """A running sum along `side`, i or j, the tile `name`, in a block of tokens: of those before a
    pair's own, or `after` it, that one too if it counts its `own`. The leaf
    `carried` is what the other blocks add; `gradients` are the derivatives of what is summed up."""

    name: str
    side: str
    after: bool
    own: bool
    carried: str
    gradients: tuple[Gradient, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Positions that part of a mask reaches, `first` to `last`, and those that it holds for the
    whole tile, `full_first` to `full_last` (nowhere unless `full`); None is no limit."""

    first: Atom | None
    last: Atom | None
    full_first: Atom | None
    full_last: Atom | None
    full: bool

    @property
    def ends(self) -> tuple[Atom | None, ...]:
        """The four limits in order."""
        return self.first, self.last, self.full_first, self.full_last


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over one side for a tile of the other, positions `lo` to `hi`: `ops` compute the
    limits of `runs`, whose union is visited."""

    ops: tuple[Op, ...]
    runs: tuple[Run, ...]

    @property
    def full(self) -> bool:
        """Whether any tile may be free of holes."""
        return any(run.full for run in self.runs)

    @property
    def limits(self) -> tuple[Atom, ...]:
        """Every limit there is."""
        return tuple(end for run in self.runs for end in run.ends if end is not None)


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """Tiles that are compact on a grid: its axes, slowest first, what the coordinates of a query
    and of a key are called, the numbers of tokens along each (None: all positions), steps whose
    remainders `rest_y` part an axis, and loops that have one run an axis, over `lo_y` to `hi_y`
    and so on."""

    axes: tuple[str, ...]
    i_at: tuple[str, ...]
    j_at: tuple[str, ...]
    i_sides: tuple[Atom | None, ...]
    j_sides: tuple[Atom | None, ...]
    steps: tuple[Atom, ...]
    rows: Loop
    columns: Loop


# names of the least and of the greatest value over a tile, and of the leaf
Ends: TypeAlias = "tuple[tuple[str, str, str], ...]"


@dataclass(frozen=True, slots=True)
class RangePlan:
    """Loops whose limits are searched for in ascending inputs, before the kernels run: over the
    tile's first and last position `lo` and `hi`, extreme values `ends`, and the sides' first
    positions `start_i` and `start_j`."""

    rows: Loop
    columns: Loop
    ends: Ends


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Whether a tile may hold pairs and whether it holds nothing else, over its extreme values.

    A tile's first and last positions are `lo_i`, `hi_i`, `lo_j` and `hi_j`.
    """

    ops: tuple[Op, ...]
    possible: Atom
    certain: Atom
    ends: Ends


@dataclass(frozen=True, slots=True)
class Logit:
    """A softmax logit as kernels compute it, in base 2: `kept` in the backward, in the forward
    `raw` times the positive number `factor`. It is the whole logit plus `lifted`, a number of the
    row. `between` are two numbers of the call around the whole in base e, if they are known."""

    kept: Atom
    raw: Atom
    factor: Atom
    lifted: Atom
    between: tuple[Atom, Atom] | None


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of a table over `axes`, `size` in all: a pair's is at the flat index `index`.
    `repeated` as in `Leaf`."""

    axes: tuple[str, ...]
    size: Atom
    index: Atom
    repeated: tuple[Atom, ...] | None


@dataclass(frozen=True, slots=True)
class Search:
    """What a search for the threshold of a row computes of a pair: with z = score - threshold its
    `share` (1 + order z) ** (1 / order) of a sum that shall be 1, and the `slope` by which that
    falls."""

    share: Atom
    slope: Atom
    order: Atom

    @property
    def atoms(self) -> tuple[Atom, Atom, Atom]:
        """All of them in order."""
        return self.share, self.slope, self.order


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a search for the `count` largest of a row reads: the `score` of a pair, an integer if
    it is `whole`."""

    score: Atom
    count: Atom
    whole: bool

    @property
    def atoms(self) -> tuple[Atom, Atom]:
        """All of them in order."""
        return self.score, self.count


@dataclass(frozen=True, slots=True)
class Branch:
    """One of the weights that a pass adds up: a softmax, with a `sink` or not, times its
    `coefficient`, a number of the row or of everything; or an element-wise weight.

    `score` is the softmax logit times log2(e) or the element-wise weight itself, `again` that in
    the form that the backward computes with its derivatives, the `gradients`, because of `forms`.
    `logit` is what kernels need of a softmax's score.
    """

    normalizer: Literal["softmax", "none"]
    coefficient: Operand | float
    sink: Operand | None
    score: Atom
    logit: Logit | None
    gradients: tuple[Gradient, ...]
    again: Atom
    forms: tuple[Form, ...]
    log_sum_exp: Expr | None  # the node equal to the saved log-sum-exp, if anything needs it

    @property
    def softmax(self) -> bool:
        """Whether its rows are normalised."""
        return self.normalizer == "softmax"

    @property
    def backward(self) -> tuple[Atom, ...]:
        """What the tile computes of it in the backward."""
        return self.again, *(g.value for g in self.gradients)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """All that the tile computes of it."""
        found, kept = (self.score, *self.backward), self.logit
        return found if kept is None else (*found, kept.kept, kept.raw, kept.factor, kept.lifted)

    @property
    def of_row(self) -> tuple[Operand, ...]:
        """What is read of a row besides its score."""
        return tuple(x for x in (self.coefficient, self.sink) if isinstance(x, Operand))


@dataclass(frozen=True, slots=True)
class PairPlan:
    """One sum over `column` for every `row`, and for every index of the axes `lanes`, of a weight,
    the sum of its `branches`, forward and backward. It gives what `form` says: the weighted sum of
    `value`, a number, the weights, what they add up to for each of the `entries`, or without a
    gradient the position of the row's largest score, its threshold or its cuts, which a `search`
    finds; the weights added up by blocks of columns; a softmax without a value gives its
    log-sum-exp alone. Several branches have a value, and
    one of them at most is no softmax.

    `ops` computes, in order, everything; `keep` is the mask (None: every pair).
    `rows` bounds the loop over keys for a tile of queries, `columns` the reverse. Instead of them
    decide `patches` for compact tiles, `ranges`, or lists made from `blocks`, where there are such.
    """

    row: str
    column: str
    lanes: tuple[str, ...]
    form: Result
    branches: tuple[Branch, ...]
    dots: tuple[Dot, ...]
    sums: tuple[ChannelSum, ...]
    scans: tuple[Scan, ...]
    value: Operand | None
    gate: Operand | None
    leaves: tuple[Leaf, ...]
    scalars: tuple[Scalar, ...]
    ops: tuple[Op, ...]
    keep: Atom | None
    rows: Loop
    columns: Loop
    patches: PatchPlan | None
    ranges: RangePlan | None
    blocks: BlockPlan | None
    result: Expr  # the node of the spec that the kernels compute
    choices: tuple[Choice, ...]  # what the host keeps of one token's values, and why
    entries: Entries | None
    search: Search | Ranking | None  # of the forms "threshold" and "cuts"

    @property
    def softmax(self) -> bool:
        """Whether every weight is normalised."""
        return all(branch.softmax for branch in self.branches)

    @property
    def whole(self) -> bool:
        """Whether the place of the largest integer of a row is sought."""
        body = self.result.body if isinstance(self.result, Reduce) else None
        return self.form == "position" and body is not None and body.kind is Kind.INT

    @property
    def constant(self) -> bool:
        """Whether nothing that it gives has a gradient."""
        apart = self.value or self.gate or any(b.gradients or b.sink for b in self.branches)
        return not apart

    @property
    def of_row(self) -> tuple[Operand, ...]:
        """What its branches read of a row besides their scores."""
        return tuple(operand for branch in self.branches for operand in branch.of_row)

    @property
    def read(self) -> tuple[Leaf, ...]:
        """What is read of rows, columns, heads and pairs that takes part in no product."""
        return (*(v for part in self.sums for v in part.vectors), *self.leaves)


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages, and the passes over pairs in the order they run, each of which may read what those
    before it made; none if no kernel covers it. `backward`: every float input's gradient."""

    stages: tuple[Stage, ...]
    backward: bool
    passes: tuple[PairPlan, ...]
    roots: tuple[tuple[str, Expr], ...] = ()  # "output" and what is returned, by passes

    @property
    def fused(self) -> bool:
        """Whether kernels cover all of it."""
        return not self.uncovered

    @property
    def uncovered(self) -> tuple[Stage, ...]:
        """What no kernel covers."""
        return tuple(stage for stage in self.stages if stage.lowering in ("blocked", "dense"))
