"""Query heads of a key head whose rows share tiles, in kernels under Triton's interpreter:

TRITON_INTERPRET=1 python -m tests.runtime.packed
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import torch
from tests.runtime.script import status

import attnspec
from attnspec.runtime import launch
from attnspec.runtime.arrange import packed
from attnspec.runtime.problem import Problem
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import INTERPRETED
from attnspec.runtime.typical import typical

# what a head, a row or a pair of one has of its own: slopes, a sink, a factor, gates, tables, a
# random number; and loops in closed form, by ranges, by lists, by a number that all heads share
SPECS = ("causal", "sliding_window", "alibi", "softcap", "sink_window", "gated_elementwise",
         "gated_headwise", "documents", "causal_documents", "t5", "shaw", "pair_bias", "padded",
         "block_halo", "qk_norm", "entmax_heads", "dropout", "sigmoid")  # fmt: skip
# a factor of a head, of which the maximum of a row is taken first
FACTOR = """attention factor
param by[h] where by > 0
input since[b]: int
mask j >= since
score = dot(q[i], k[j]) * by
"""
Shape = tuple[int, int, int, int]  # key heads, query heads of each, queries, keys
# two tiles; two programs a group; rows over, and a tile of keys that only the last query sees
EDGES = ((1, 2, 16, 40), (1, 64, 2, 40), (2, 12, 3, 36))


def drawn(random: Random) -> Shape:
    """At most 8 heads."""
    keys = random.randint(1, 4)
    group = random.choice([n for n in (2, 3, 4, 8) if keys * n <= 8])
    return keys, group, random.randint(1, 16), random.randint(18, 48)


def problems() -> Iterator[str]:
    """What differs from one head a tile or from the reference."""
    random = Random(0)
    for name in SPECS:
        yield from differing(attnspec.load(name), drawn(random))
    for shape in EDGES:
        for f in (attnspec.compile(FACTOR), attnspec.load("causal")):
            yield from differing(f, shape)


def differing(f: attnspec.Attention, shape: Shape) -> Iterator[str]:
    """The same of one spec."""
    keys, group, rows, length = shape
    heads = keys * group
    given = typical(
        f.spec, batch=2, heads=heads, kv_heads=keys, length=length, rows=rows, channels=8
    )
    given["q_start"] = max(length - rows - 3, 0)
    tiled, found = launch._tile, []

    def noted(call: Problem, name: str) -> Config:
        found.append(packed(call, name, tiled(call, name)))
        return replace(tiled(call, name), descriptors=length % 2 == 0)

    def alone(call: Problem, name: str) -> Config:
        return replace(tiled(call, name), pack=False)

    several = []
    try:
        for launch._tile in (noted, alone):
            for _, kernels in f._generated.PASSES:  # else they remember their tiles
                kernels["forward"].layouts.clear()
            several.append(f(**given, extras=True))
    finally:
        launch._tile = tiled
    (out, extras), (apart, each) = several
    want, wide = f.reference(**given, extras=True)
    pairs = [(out, apart), (out, want), *((extras[n], each[n]) for n in extras)]
    pairs += [(extras[n], wide[n]) for n in extras if n in wide]
    if not all(torch.allclose(x.double(), y.double(), 1e-4, 1e-5) for x, y in pairs):
        yield f"{f.spec.name}: {shape}"
    if max(found, default=1) != min(group, INTERPRETED.block_m):
        yield f"{f.spec.name}: {shape}, {found} heads in a tile"


if __name__ == "__main__":
    sys.exit(status(problems()))
