"""Tiles that descriptors load are those that pointers load, under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.descriptors
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from tests.runtime.script import status
from torch import Tensor

import attnspec
from attnspec.runtime import arrange, launch
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import INTERPRETED, Key, trial
from attnspec.runtime.verify_case import Case, arguments, leaves

# straight loops, a window, lists, a gate, a table's gradient, several weights, no softmax; keys
# that kernels make, and compact tiles, which no descriptor loads
SPECS = ("causal", "sliding_window", "documents", "gated_elementwise", "t5", "differential",
         "sigmoid", "natten")  # fmt: skip
SIZES = ("b", "h", "heads", "i", "j", "d", "e")
NONE = Key("", "", "", 0, wide=False)
# sizes and layouts of which q, k and v have descriptors, and how partial tiles are taken: in
# pieces, which have no descriptor, or whole
DESCRIBED = (
    ((1, 4, 2, 24, 70, 8, 24), "contiguous", None),
    ((1, 2, 1, 32, 64, 16, 4), "transposed", 16),  # whole tiles, and padded channels
    ((2, 2, 2, 1, 33, 12, 8), "transposed", None),
)
# and of which they have none
POINTED = (
    ((2, 2, 2, 33, 40, 8, 8), "strided", 16),  # channels lie apart
    ((2, 2, 1, 17, 40, 8, 8), "expanded", 16),  # a stride of 0
    ((2, 2, 1, 17, 40, 6, 5), "contiguous", 16),  # rows of 24 and 20 bytes
    ((2, 2, 1, 17, 40, 8, 8), "corner", 16),  # neither a base nor rows at 16 bytes
)


def results(attention: Any, call: dict[str, Any], tile: Config) -> list[Tensor]:
    """Output and gradients with a tile."""
    vars(launch)["INTERPRETED"] = tile
    with trial(NONE, tile):  # not laid out as for the tile before
        out, extras = attention(**call, extras=True, backend="triton")
        up = torch.linspace(-1, 1, out.numel()).view(out.shape)
        floats = [*leaves(call).values()]
        found = torch.autograd.grad(out, floats, up.to(out), allow_unused=True)
    return [out.detach(), *extras.values(), *(x for x in found if x is not None)]


def problems() -> Iterator[str]:
    """What differs from the results by pointers, or has no descriptor."""
    made: set[int] = set()  # tokens of what descriptors load, 0 where there is none
    plain = arrange.boxed

    def noted(x: Tensor, tokens: int) -> arrange.Box | None:
        found = plain(x, tokens)
        made.add(tokens if found else 0)
        return found

    vars(arrange)["boxed"] = noted
    for name in SPECS:
        attention = attnspec.load(name)
        for given in DESCRIBED + (POINTED if name == "causal" else ()):
            sizes, layout, edge = given
            case = Case(tuple(zip(SIZES, sizes, strict=True)), 0, 0, "float32", layout, "normal", 5)
            call = arguments(attention, case, torch.device("cpu"))
            tile = replace(INTERPRETED, block_m=16, edge=edge)
            want = results(attention, call, tile)
            made.clear()
            got = results(attention, call, replace(tile, descriptors=True))
            if not all(map(torch.equal, got, want)):
                yield f"{name}, {case}: differs"
            if given in DESCRIBED and made != (set() if name == "natten" else {16, 32}):
                yield f"{name}, {case}: descriptors of {made} tokens"


if __name__ == "__main__":
    sys.exit(status(problems()))
