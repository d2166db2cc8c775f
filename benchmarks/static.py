"""What the kernels compiled for cuda:90 do in their loops over tiles, beside FlexAttention's.

Compiles forward, backward by rows and backward by columns of a few specs, most of which the peer
has, too, in bfloat16 at head dimensions 64 and 128; no GPU is needed. From the machine code of
each: registers, spills, shared memory, whether the assembler serialised `wgmma`, the mix of each
loop over tiles, and instructions for each score element in those over full and partial tiles.
Backward kernels make what the peer's make: gradients of queries, keys and values. Peers' figures
stand in benchmarks/peers. One spec's kernels once more with tiles loaded by descriptors.
Writes benchmarks/results/static/loops.json and prints a line a kernel. Run it with `make static`.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import attnspec
from attnspec.runtime import aot
from attnspec.runtime.arrange import need
from attnspec.runtime.disassembly import TileLoop, instructions, serialised, tile_loops
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import config, described

HERE = Path(__file__).parent
RESULT = HERE / "results" / "static" / "loops.json"
PEERS = HERE / "peers" / "flexattention.tsv"
TARGET, DTYPE = "cuda:90", "bf16"
HEAD_DIMS = (64, 128)
# Each spec, what is passed to it in place of its defaults, and the most that its forward at head
# dimension 64, at 128, and its backward may take of what the peer takes.
SPECS: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "causal": ({}, 0.80, 0.65, 0.80),
    "sliding_window": ({"window": 256}, 0.80, 0.65, 0.80),
    "causal_documents": ({}, 0.80, 0.65, 0.80),
    "alibi": ({}, 0.80, 0.68, 0.72),
    "softcap": ({"cap": 20.0}, 0.45, 0.45, 0.58),
}
PARTIAL = 1.25  # and in partial tiles, where masks are worked out, its forward
# Without a peer: the most instructions for each score element of any kernel at head dimension 64.
ALONE: dict[str, float] = {"t5": 17.0, "natten": 12.0}
DESCRIBED = "causal"
PRODUCTS = {"forward": 2, "backward_rows": 3, "backward_columns": 4}
PHASES = {"forward": "fwd", "backward_rows": "dq", "backward_columns": "dkdv"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One kernel's machine code; `loops` are those over tiles: the full ones, the partial ones, and
    both once more where values are not finite."""

    spec: str
    head_dim: int
    phase: str
    block_m: int
    block_n: int
    warps: int
    stages: int
    descriptors: bool
    registers: int
    spills: int
    shared: int
    serialised: bool
    loops: tuple[TileLoop, ...]

    @property
    def per_element(self) -> float:
        """Instructions for each score element in the loop over full tiles."""
        return self.loops[0].per_element

    @property
    def partial(self) -> float:
        """The same of partial tiles."""
        return self.loops[1].per_element


def measure(
    name: str, kernel: str, head_dim: int, tile: Config | None = None, descriptors: bool = False
) -> Measured:
    """Compile one kernel of a library spec and read its loops."""
    attention = attnspec.load(name)
    spec, module = attention.spec, attention._generated
    given = SPECS[name][0] if name in SPECS else {}
    call = aot.record(spec, module, DTYPE, head_dim, **given)
    wanted = need(call, kernel)
    tile = tile or config(wanted, TARGET)
    tile = described(wanted, tile) if descriptors else tile
    made = aot.compiled(module, kernel, call, TARGET, tile, leaves=False)
    registers, spills = aot.resources(made.asm, made.asm["cubin"])
    loops = tile_loops(instructions(made.asm["cubin"]), PRODUCTS[kernel] * head_dim)
    return Measured(
        name,
        head_dim,
        PHASES[kernel],
        tile.block_m,
        tile.block_n,
        tile.warps,
        tile.stages,
        tile.descriptors,
        registers,
        spills,
        made.metadata.shared,
        serialised(made.asm["ptx"]),
        tuple(loops),
    )


def peers(of: str = "per_element") -> dict[tuple[str, int, str], float]:
    """Instructions for each score element of the peer, by spec, head dimension and phase."""
    rows = [line for line in PEERS.read_text().splitlines() if not line.startswith("#")]
    table = csv.DictReader(rows, delimiter="\t")
    return {(r["spec"], int(r["head_dim"]), r["phase"]): float(r[of]) for r in table}


def ratios(found: list[Measured]) -> dict[tuple[str, int, str], tuple[float, float]]:
    """Our share of the peer's instructions and the most it may be: forward, backward, and forward
    in partial tiles."""
    theirs = peers()
    ours = {(m.spec, m.head_dim, m.phase): m.per_element for m in found if not m.descriptors}
    shares = {}
    for name, dim in dict.fromkeys((m.spec, m.head_dim) for m in found if m.spec in SPECS):
        _, at_64, at_128, backward = SPECS[name]
        limits = {"forward": at_64 if dim == 64 else at_128, "backward": backward}
        for what, phases in (("forward", ("fwd",)), ("backward", ("dq", "dkdv"))):
            keys = [(name, dim, phase) for phase in phases]
            if all(key in ours for key in keys):
                share = sum(ours[key] for key in keys) / sum(theirs[key] for key in keys)
                shares[name, dim, what] = share, limits[what]
    there = peers("partial")
    for m in found:
        of = m.spec, m.head_dim, m.phase
        if of in there and m.phase == "fwd" and not m.descriptors:
            shares[m.spec, m.head_dim, "partial"] = m.partial / there[of], PARTIAL
    return shares


def write(path: Path, found: list[Measured]) -> None:
    """The results as JSON, a line a kernel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(asdict(m)) for m in found)
    path.write_text(f"[\n{lines}\n]\n")


def show(found: list[Measured]) -> None:
    """A line a kernel, then the shares."""
    row = "{:<17}{:>4} {:<5}{:>8}{:>6}{:>7}{:>9}{:>6}{:>7}{:>8}{:>9}{:>9}{:>8}".format
    print(row("spec", "dim", "phase", "tile", "warps", "stages", "loads by", "regs", "spills",
              "shared", "per elem", "partial", "serial"))  # fmt: skip
    for m in found:
        print(row(m.spec, m.head_dim, m.phase, f"{m.block_m}x{m.block_n}", m.warps, m.stages,
                  "TMA" if m.descriptors else "pointers", m.registers, m.spills, m.shared,
                  f"{m.per_element:.2f}", f"{m.partial:.2f}",
                  "yes" if m.serialised else "no"))  # fmt: skip
    print()
    for (name, dim, what), (share, limit) in ratios(found).items():
        verdict = "" if share <= limit else f"   above {limit:.2f}"
        print(f"{name:<17}{dim:>4} {what:<9}{share:5.2f} of the peer's{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "specs", nargs="*", choices=[[], *SPECS, *ALONE], help="Default: all of them."
    )
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    measured = [
        (descriptors, measure(name, kernel, dim, descriptors=descriptors))
        for name in options.specs or [*SPECS, *ALONE]
        for dim in HEAD_DIMS
        for kernel in PRODUCTS
        for descriptors in ((False, True) if name == DESCRIBED else (False,))
    ]
    found = [one for descriptors, one in measured if one.descriptors == descriptors]
    show(found)
    if not options.specs:
        write(options.output, found)


if __name__ == "__main__":
    main()
