"""What templates see of tensors and of loops: names and printed lines, no expressions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attnspec.codegen.plan_types import Loop, Operand, PatchPlan
from attnspec.codegen.spelling import tuple_text
from attnspec.codegen.statements import text, triton_line
from attnspec.codegen.tile import Atom, Op


@dataclass(frozen=True, slots=True)
class Tensor:
    """A kernel's tensor argument: its strides by dimension (none where it is contiguous over all
    query heads), and how a tile of it is read: into `var` by the function `read`, of `head` where
    all heads of a tile share it."""

    name: str
    strides: tuple[str, ...]
    token: str = ""
    channel: str = ""
    cast: str = ""
    var: str = ""
    read: str = "load_side"
    head: str = ""

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
        return tuple_text(run.name for run in self.runs)


@dataclass(frozen=True, slots=True)
class PatchView:
    """Compact tiles, as texts: (sides, steps) and shape of a program's own tile and of those that
    its loop visits, sides of the latter, and names of what the own tile fixes."""

    own_grid: str
    own_shape: str
    others_grid: str
    others_shape: str
    others_sides: str
    lengths: tuple[str, ...]
    ends: str
    rests: str

    @property
    def own(self) -> str:
        """Grid and shape of the own tile."""
        return f"{self.own_grid}, {self.own_shape}"


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


def read_view(loop: Loop, head: str) -> LoopView:
    """A loop's runs as Triton code that reads their limits, those of `head`."""
    own = f"p_limits + b64 * s_limits_b + {head} * s_limits_h + block * s_limits_t"
    runs, lines = [], [f"limits = {own}"]
    for place, run in enumerate(loop.runs):
        ends = tuple(f"{end}_{place}" for end in ("first", "last", "full_first", "full_last"))
        lines += [f"{end} = tl.load(limits + {4 * place + n})" for n, end in enumerate(ends)]
        runs.append(RunView(f"run_{place}", ends, run.full))
    return LoopView(tuple(lines), tuple(runs), loop.full)


def tiles(operands: Iterable[Operand], token: str) -> list[Tensor]:
    """The arguments that a kernel reads tiles of, each once."""
    unique = {o.name: o for o in operands}
    return [Tensor(o.name, strides(o), token, o.labels[3]) for o in unique.values()]


def strides(operand: Operand) -> tuple[str, ...]:
    """Dimensions as their strides are called: the channel is `c`, whatever its axis."""
    return (*operand.dims[:3], *("c" for _ in operand.dims[3:]))


def patch_view(found: PatchPlan, side: str) -> PatchView:
    """Compact tiles of a kernel whose programs own one side, "rows" or "columns"."""
    steps = tuple_text(text(step) for step in found.steps)
    shapes = {name: patch_shape(name, found.axes) for name in "MN"}
    grids = {
        "M": tuple_text("q_start + M" if n is None else text(n) for n in found.i_sides),
        "N": tuple_text("k_start + N" if n is None else text(n) for n in found.j_sides),
    }
    own, other = "MN" if side == "rows" else "NM"
    return PatchView(
        f"{grids[own]}, {steps}",
        tuple_text(shapes[own]),
        f"{grids[other]}, {steps}",
        tuple_text(shapes[other]),
        grids[other],
        shapes[other],
        ", ".join(f"lo_{axis}, hi_{axis}" for axis in found.axes),
        _targets(f"rest_{axis}" for axis in found.axes),
    )


def placed(ops: Iterable[Op], found: PatchPlan, side: str) -> tuple[Op, ...]:
    """`ops` in a kernel whose programs own one side, "rows" or "columns": coordinates, and what
    the steps divide them into, come from what makes its tiles, not from divisions. Past the
    grid the own tile has its last coordinates: a number that is not there must lie in the domain
    of what is computed of it."""
    made: dict[str, str] = {}
    divided: dict[tuple[str, tuple[Atom, ...]], str] = {}
    for place, names, own in (("row", found.i_at, "rows"), ("column", found.j_at, "columns")):
        index = "[:, None]" if own == side else "[None, :]"
        for n, (axis, name, step) in enumerate(zip(found.axes, names, found.steps, strict=True)):
            at, rest = f"{place}_at[{n}]", f"rest_{axis}"
            if own == side:
                at = f"tl.minimum({at}, hi_{axis}.to(tl.int32))"
            whole = at if step == 1 else f"({at} * {text(step)} + {rest})"
            made[name] = f"{whole}{index}"
            divided["floordiv", (name, step)] = f"{at}{index}"
            divided["mod", (name, step)] = rest

    def given(op: Op) -> Op:
        known = divided.get((op.op.removesuffix("_unsigned"), op.args))
        value = made.get(op.target, known)
        return op if value is None else replace(op, op="constant", args=(value,))

    return tuple(map(given, ops))


def patch_shape(side: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a patch's lengths along each axis."""
    return tuple(f"{side}_{axis}" for axis in axes)


def _targets(names: Iterable[str]) -> str:
    """Names to assign a tuple to."""
    listed = list(names)
    return f"({listed[0]},)" if len(listed) == 1 else ", ".join(listed)
