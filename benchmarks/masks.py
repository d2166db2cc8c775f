"""What planning a mask takes before a kernel runs: time and memory, beside FlexAttention's.

Masks over positions at length 32,768: all that a launch of the forward kernel is told. Masks over
inputs at length 131,072 with 512 documents: lists of tiles from each block's extreme values, and
ranges where the documents' numbers ascend, for tiles of 128 x 128, by row and by column. Runs on
the CPU with one thread. Peers' figures stand in benchmarks/peers. Writes
benchmarks/results/static/masks.json and prints a line a mask. Run it with `make masks`.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tests.runtime.planning import Peak, documents

import attnspec
from attnspec.runtime.aot import call_of
from attnspec.runtime.api import Attention
from attnspec.runtime.arrange import arrange
from attnspec.runtime.blocks import visits
from attnspec.runtime.launch import outputs
from attnspec.runtime.problem import Problem
from attnspec.runtime.tile_tables import Config

HERE = Path(__file__).parent
RESULT = HERE / "results" / "static" / "masks.json"
PEERS = HERE / "peers" / "flexattention_masks.tsv"
LENGTH, LONG, DOCUMENTS = 32768, 131072, 512
TILE = Config(128, 128, 8, 2)
POSITIONS: dict[str, dict[str, Any]] = {
    "causal": {},
    "sliding_window": {"window": 256},
    "chunked_causal": {},
    "dilated_window": {},
    "natten": {"GY": 181, "GX": 181},
}


@dataclass(frozen=True, slots=True)
class Planned:
    """Planning one mask: the best of several times, and bytes alive at once."""

    mask: str
    length: int
    what: str
    seconds: float
    bytes: int


def measured(mask: str, length: int, what: str, run: Callable[[], object]) -> Planned:
    """Time and memory of `run`."""
    with Peak() as peak:
        run()
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return Planned(mask, length, what, min(times), peak.most)


def called(f: Attention, length: int, given: dict[str, Any]) -> Problem:
    """A call of one head with channels of size 1: planning looks at no operand."""
    x = torch.zeros(1, 1, length, 1)
    return call_of(f._generated, {"q": x, "k": x, "v": x, **given})


def positions(name: str, given: dict[str, Any]) -> Planned:
    """What a launch of the forward kernel is told."""
    f = attnspec.load(name)
    length = given["GY"] * given["GX"] if "GY" in given else LENGTH
    call = called(f, length, given)
    kernel = f._generated.KERNELS["forward"]
    pointers = dict(zip(("out", "lse"), outputs(call), strict=True))
    names = tuple(kernel.arg_names)
    return measured(name, length, "launch", lambda: arrange(call, "forward", names, pointers, TILE))


def inputs(name: str, f: Attention, by_columns: bool) -> Planned:
    """Lists of tiles, or ranges of them."""
    call = called(f, LONG, {"doc": documents(LONG, DOCUMENTS)})
    what = "ranges" if call.plan.ranges is not None else "lists"
    side = "column" if by_columns else "row"
    return measured(
        name,
        LONG,
        f"{what} by {side}",
        lambda: visits(call, TILE.block_m, TILE.block_n, by_columns),
    )


def main() -> None:
    """Measure every mask."""
    torch.set_num_threads(1)
    found = [positions(name, given) for name, given in POSITIONS.items()]
    for f in (attnspec.load("causal_documents"), attnspec.load("packed")):
        found += [inputs(f.spec.name, f, by_columns) for by_columns in (False, True)]
    for one in found:
        print(
            f"{one.mask:18}{one.length:8}  {one.what:18}"
            f"{one.seconds * 1e3:9.3f} ms {one.bytes / 2**20:9.3f} MiB"
        )
    with PEERS.open(newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        peers = list(csv.DictReader(lines, delimiter="\t"))
    for peer in peers:
        print(
            f"{'FlexAttention':18}{peer['length']:>8}  {'block mask':18}"
            f"{float(peer['seconds']) * 1e3:9.3f} ms {int(peer['bytes']) / 2**20:9.3f} MiB"
        )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
