"""What a kernel is called with: every argument, the grid and the tile, from names alone.

A kernel's parameters are named after what they hold (`p_x` a tensor, `s_x_i` its stride along
i, `s_x_c` along its channels, `C_d` and `W_d` the channels of axis d and their padded number).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import e, inf, log2
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attnspec.runtime import patches
from attnspec.runtime.blocks import visits_again
from attnspec.runtime.kept import Place, place_of
from attnspec.runtime.problem import Problem
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import FEW, Need, width

SLOTS = 256  # entries of a table that one program sums
# dimensions as kernels see them, all entries of a table in one
_LEAF_DIMS = {
    "table": ("b", "h", "t"),
    "row_table": ("b", "h", "i", "t"),
    "column_table": ("b", "h", "j", "t"),
    "pair": ("b", "h", "i", "j"),
    "row_blocks": ("b", "h", "i", "j"),
    "column_blocks": ("b", "h", "i", "j"),
}
PAIRED = ("pair", "row_blocks", "column_blocks")
SIDES = ("b", "h", "i", "j", "t")  # dimensions of a tensor that are no channels


# A descriptor but for its tensor: shape, strides, and shape of what it loads.
Box: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """What launches of one kind share: arguments in the kernel's order, programs, of which `parts`
    share the keys of a tile of rows, the tile, the device, and where it is kept what they visit.
    Where arguments are each launch's own, `tensors` (place, name, whether of truth values),
    `described` (place, name, box) and `numbers` (place, name) go. `outputs` are the call's (shape,
    strides, dtype)."""

    args: tuple[Any, ...]
    tensors: tuple[tuple[int, str, bool], ...]
    described: tuple[tuple[int, str, Box], ...]
    numbers: tuple[tuple[int, str], ...]
    grid: tuple[int, int]
    parts: int
    tile: Config
    device: torch.device
    on_gpu: bool
    visits: Place | None
    outputs: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...] = ()

    def filled(
        self, tensors: Mapping[str, Tensor | None], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """The arguments of one launch."""
        args = list(self.args)
        for place, name in self.numbers:
            args[place] = numbers[name]
        for place, name, truth in self.tensors:
            pointer = tensors[name]
            args[place] = pointer.view(torch.uint8) if truth and pointer is not None else pointer
        for place, name, box in self.described:
            args[place] = _descriptor(tensors[name], box)
        return tuple(args)


def _descriptor(x: Tensor | None, box: Box) -> Any:
    """The descriptor of a tensor; None where its memory does not begin at 16 bytes."""
    if x is None or x.data_ptr() % 16:
        return None
    from attnspec.runtime import compat

    return compat.descriptor(x, *box)


def need(call: Problem, name: str) -> Need:
    """What the tile of kernel `name` must hold."""
    lefts = {x: call.tensors[x].shape[-1] for _, x, _ in call.plan.dots}
    rights = {y: call.tensors[y].shape[-1] for _, _, y in call.plan.dots}
    for vector in (v for part in call.plan.sums for v in part.vectors if v.grad):
        side = rights if vector.role == "column" else lefts
        side[vector.operand] = call.tensors[vector.operand].shape[-1]
    phase = name if name in ("forward", "backward_rows", "backward_columns") else "backward_table"
    if phase == "forward" and call.rows <= FEW and call.plan.patches is None:
        together = call.rows * (call.groups if call.plan.packs else 1)
        phase = "forward_few" if together <= FEW else "forward_packed"
    if phase == "backward_rows" and call.plan.gate is not None:
        phase = "backward_gated"
    sums = len(call.plan.weights) if name == "forward" else 1
    load = call.plan.loads[0 if name == "forward" else 1]
    walked = name == "backward_columns" and call.groups > 1
    if load == "medium" and walked:
        load = "heavy"
    if load in ("light", "masked", "listed"):
        load = "tight" if _small(call, name) + walked > 1 else "shared" if walked else load
    return Need(
        phase,
        sum(map(width, lefts.values())),
        sum(map(width, rights.values())),
        0 if call.value is None else sums * width(call.value.shape[-1]),
        load,
        call.dtype,
        call.plan.counts,
    )


def _small(call: Problem, name: str) -> int:
    """How many small things take registers beside products and mask: numbers of tokens, heads and
    pairs, a gate of rows, and channels that do not fill their padded width."""
    plan = call.plan
    multiplied = {x for _, *both in plan.dots for x in both} | {plan.value}
    widths = [call.tensors[x].shape[-1] for x in multiplied if x is not None]
    numbers = sum(call.tensors[leaf.operand].is_floating_point() for leaf in plan.leaves)
    gated = plan.gate is not None and name != "backward_columns"
    return numbers + gated + any(width(n) > n for n in widths)


def gradient_buffers(
    call: Problem, arg_names: tuple[str, ...], tile: Config, wanted: Collection[str]
) -> dict[str, Tensor | None]:
    """By operand, where a kernel writes its gradients: heads and tables get a share a tile.

    None for a leaf or gate that is not wanted: then nothing of its gradient is computed.
    """
    roles = call.plan.roles
    count = blocks(call, tile, by_columns=False)
    found: dict[str, Tensor | None] = {}
    for operand in written(arg_names):
        if operand not in wanted and (operand in roles or operand == call.plan.gate):
            found[operand] = None
            continue
        like = call.tensors[operand]
        shape: tuple[int, ...] = tuple(like.shape)
        dtype = torch.float32
        match roles.get(operand, ""):
            case "head":
                shape = (call.batch, call.heads, count, *like.shape[2:])
            case "table":
                shape = (call.batch, call.heads, count, like.shape[-1])
            case "pair" | "row_blocks" | "column_blocks":
                shape = (call.batch, call.heads, *like.shape[2:])
            case "":
                dtype = like.dtype
        # added to, or not written everywhere: tiles without a pair are never visited
        owned = roles.get(operand, "") in (*PAIRED, "row_table", "column_table")
        made = torch.zeros if owned else torch.empty
        found[operand] = made(shape, dtype=dtype, device=like.device)
    return found


def written(arg_names: tuple[str, ...]) -> list[str]:
    """The operands whose gradients a kernel with these parameters writes."""
    return [p[4:] for p in arg_names if p.startswith("p_d_") and p != "p_d_out"]


def layout(
    call: Problem, name: str, arg_names: tuple[str, ...], pointers: Mapping[str, Tensor | None],
    visits: Mapping[str, Tensor], tile: Config, parts: int = 1, made: Sequence[Tensor] = (),
) -> Layout:  # fmt: skip
    """How kernel `name` is launched by every call of this kind; `pointers` are what it reads or
    writes beside operands or in their stead, `visits` what tells it where to go, `parts` how many
    programs share the keys of a tile of rows, and `made` the call's outputs."""
    by_columns = name == "backward_columns"
    values, dims = constants(call)
    along = tile.block_m if by_columns else tile.block_n
    heads = packed(call, name, tile)
    values |= {"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "EDGE": tile.edge or along}
    values |= choices(call)
    if call.plan.patches is not None:
        for side, lengths in zip("MN", patch_shapes(call, tile), strict=True):
            values |= {
                f"{side}_{a}": n for a, n in zip(call.plan.patches.axes, lengths, strict=True)
            }
    tensors: dict[str, Tensor | None] = {**call.tensors, **pointers}
    for operand, role in call.plan.roles.items():  # they may lack batches or heads
        lead = call.batch, call.key_heads if role in ("column", "column_table") else call.heads
        tensors[operand] = _of_heads(lead, call.tensors[operand])
    for key, part in visits.items():
        dims[key] = ("b", "h", "t", "c")
        tensors[key] = _of_heads((call.batch, call.heads), part)
    for tensor, axes in dims.items():
        there = tensors.get(tensor)
        if there is not None:
            for axis, stride in zip(axes, there.stride(), strict=True):
                values[f"s_{tensor}_{axis if axis in SIDES else 'c'}"] = stride
    chunks = parts
    values |= {"PARTS": parts, "PACKED": heads, "AGAIN": tile.again}
    if "BLOCK_T" in arg_names:
        size = call.tensors[written(arg_names)[0]].shape[-1]
        block = min(SLOTS, width(size))
        chunks = -(-size // block)
        values |= {"T": size, "BLOCK_T": block}
    own, numbers, each = [], [], call.every_number
    for place, parameter in enumerate(arg_names):
        if parameter in values:
            continue
        if parameter.startswith("p_"):
            pointer = tensors.get(parameter[2:])
            truth = pointer is not None and pointer.dtype is torch.bool
            own.append((place, parameter[2:], truth))
        elif parameter in each:
            numbers.append((place, parameter))
        elif not parameter.startswith("desc_"):
            raise KeyError(parameter)
    grid = programs(call, name, tile), chunks
    described = _described(arg_names, tensors, dims, tile, heads)
    places = tuple(own), described, tuple(numbers)
    at = _visits_at(call, name, tile)
    on_gpu = call.device.type == "cuda"
    args = tuple([values.get(parameter) for parameter in arg_names])
    outputs = tuple([(tuple(x.shape), x.stride(), x.dtype) for x in made])
    return Layout(args, *places, grid, parts, tile, call.device, on_gpu, at, outputs)


def visited(call: Problem, name: str, tile: Config) -> dict[str, Tensor]:
    """What tells kernel `name` where to go, by argument, as the values of this call decide."""
    return visits_again(call, _visits_at(call, name, tile))


def _visits_at(call: Problem, name: str, tile: Config) -> Place | None:
    if not call.plan.lists:
        return None
    rows = tile.block_m // packed(call, name, tile)
    return place_of(call, (rows, tile.block_n, name == "backward_columns"))


def arrange(
    call: Problem, name: str, arg_names: tuple[str, ...],
    pointers: Mapping[str, Tensor | None], tile: Config, parts: int = 1,
) -> tuple[Any, ...]:  # fmt: skip
    """The arguments of one launch, laid out for it alone."""
    visits = visited(call, name, tile)
    found = layout(call, name, arg_names, pointers, visits, tile, parts)
    return found.filled({**call.tensors, **pointers, **visits}, call.every_number)


def _of_heads(lead: tuple[int, int], x: Tensor) -> Tensor:
    return x.expand(*lead, *x.shape[2:])


def _described(
    arg_names: tuple[str, ...], tensors: Mapping[str, Tensor | None],
    dims: Mapping[str, tuple[str, ...]], tile: Config, heads: int,
) -> tuple[tuple[int, str, Box], ...]:  # fmt: skip
    """Which arguments are descriptors, of what, and their boxes; rows of several `heads` are no
    box."""
    found = []
    for place, parameter in enumerate(arg_names if tile.descriptors else ()):
        operand = parameter.removeprefix("desc_")
        x = tensors.get(operand) if parameter.startswith("desc_") else None
        by_keys = dims.get(operand, "bhi")[2] == "j"  # what kernels make is of queries
        if x is None or (heads > 1 and not by_keys):
            continue
        box = boxed(x, tile.block_n if by_keys else tile.block_m)
        if box is not None:
            found.append((place, operand, box))
    return tuple(found)


def boxed(x: Tensor, tokens: int) -> Box | None:
    """How the copy engine reads tiles [tokens, channels] of x [B, H, tokens, channels], or None
    where it cannot: it takes strides that are multiples of 16 bytes. Those of dimensions of 1,
    which mean nothing, may be any."""
    strides = [s if n > 1 else 16 for n, s in zip(x.shape[:3], x.stride()[:3], strict=True)]
    aligned = all(s > 0 and s * x.dtype.itemsize % 16 == 0 for s in strides)
    if 0 in x.shape or x.stride(3) != 1 or not aligned:
        return None
    return tuple(x.shape), (*strides, 1), (1, 1, tokens, width(x.shape[3]))


def programs(call: Problem, name: str, tile: Config) -> int:
    """The number of tiles that kernel `name` owns, over all batches and heads."""
    if name == "backward_columns":
        return call.batch * call.key_heads * blocks(call, tile, by_columns=True)
    heads = packed(call, name, tile)
    rows = tile if heads == 1 else replace(tile, block_m=tile.block_m // heads)
    return call.batch * (call.heads // heads) * blocks(call, rows, by_columns=False)


def packed(call: Problem, name: str, tile: Config) -> int:
    """How many query heads of a key head have their rows in one tile of kernel `name`: as many as
    fit, one unless the tile is meant for it."""
    if name != "forward" or not (tile.pack and call.plan.packs):
        return 1
    counts = range(1, min(call.groups, tile.block_m) + 1)
    return max((n for n in counts if call.groups % n == 0), default=1)


def blocks(call: Problem, tile: Config, by_columns: bool) -> int:
    """The number of tiles of one head's columns or rows."""
    found = call.plan.patches
    if found is None:
        length, block = (call.columns, tile.block_n) if by_columns else (call.rows, tile.block_m)
        return -(-length // block)
    return patches.grids(call)[by_columns].patches(patch_shapes(call, tile)[by_columns])


def patch_shapes(call: Problem, tile: Config) -> tuple[patches.Shape, patches.Shape]:
    """Shapes of the tiles of rows and of columns on a grid."""
    return patches.shapes(call, tile.block_m, tile.block_n)


def choices(call: Problem) -> dict[str, Any]:
    """What a call decides for its kernels.

    `SHORT`: operands of 16 bits, so that scores need no more digits than those keep. `COARSE`:
    besides, the logits' range, in bits, times what a coarse tanh errs (2 ** -22) is less than
    that. `FIXED` (`FIXED_1` and so on, of several): the bits that the fixed maximum of a softmax
    lies below the highest logit, None for a running one. Weights then lie within 2 ** FIXED and
    that less the range: of float16 they must not leave what has all its digits, of others a value
    of 2 ** -62 still counts.
    """
    dtype, weights = call.dtype, call.plan.weights
    bits = [inf if w.between is None else _range(call, *w.between) for w in weights]
    most, below = (29, 15) if dtype is torch.float16 else (64, 0)
    short = dtype.itemsize == 2
    ends = [f"_{n + 1}" if len(weights) > 1 else "" for n in range(len(weights))]
    fixed = {f"FIXED{end}": below if n <= most else None for end, n in zip(ends, bits, strict=True)}
    return {"SHORT": short, "COARSE": short and max(bits) <= 512, **fixed}


def _range(call: Problem, low: str | float, high: str | float) -> float:
    """The bits between two numbers in base e."""
    least, most = (call.numbers[x] if isinstance(x, str) else x for x in (low, high))
    return (most - least) * log2(e)


def constants(call: Problem) -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
    """Numbers that kernels take by name, and the dimensions of every operand."""
    plan = call.plan
    dims = dict(plan.operands)
    for leaf in plan.leaves:
        dims[leaf.operand] = _LEAF_DIMS.get(leaf.role, dims[leaf.operand])
    values: dict[str, Any] = {
        "H": call.heads,
        "HK": call.key_heads,
        "GROUPS": call.groups,
        "M": call.rows,
        "N": call.columns,
    }
    for name in (*(x for _, x, _ in plan.dots), *([plan.value] if plan.value else [])):
        values[f"C_{dims[name][3]}"] = call.tensors[name].shape[3]
        values[f"W_{dims[name][3]}"] = width(call.tensors[name].shape[3])
    for part in plan.sums:
        size = call.tensors[part.vectors[0].operand].shape[-1]
        values |= {f"C_{part.channel}": size, f"W_{part.channel}": width(size)}
    for leaf in plan.leaves:
        if "t" in _LEAF_DIMS.get(leaf.role, ()):
            values[f"T_{leaf.operand}"] = call.tensors[leaf.operand].shape[-1]
    return values, dims
