"""What the machine code of a CUDA kernel does in its loops over tiles.

Kernels of different tiles compare by score element: a warp that runs a loop's body once computes
as many elements of query times key as its matrix instructions' multiply-adds give, and every
other instruction of the body is shared out over them.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attnspec.runtime.compat import nvidia_tool

THREADS = 32  # of a warp
WARPGROUP = 4  # warps that share one HGMMA

_INSTRUCTION = re.compile(
    r"/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*)"
)
_LABEL = re.compile(r"^(\.L_\w+):", re.MULTILINE)
_HGMMA = re.compile(r"HGMMA\.(\d+)x(\d+)x(\d+)")
_HMMA = {"HMMA.16816": 16 * 8 * 16, "HMMA.1688": 16 * 8 * 8}

KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix": ("HGMMA", "HMMA"),
    "special function": ("MUFU",),
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSETP"),
    "conversion": ("F2FP", "F2F", "F2I", "I2F", "I2FP", "HADD2", "FRND"),
    "integer": (
        "IADD3", "IMAD", "LEA", "LOP3", "SHF", "PRMT", "VIADD", "ISETP", "SEL", "PLOP3", "IMNMX",
        "VIMNMX", "VIADDMNMX", "IABS", "MOV", "CS2R",
    ),
    "memory": (
        "LDS", "LDSM", "STS", "STSM", "LDG", "STG", "LDGSTS", "LDGDEPBAR", "LDC", "ULDC", "SHFL",
        "UTMALDG",
    ),
    "spill": ("LDL", "STL"),
    "wait": ("BAR", "WARPGROUP", "DEPBAR", "SYNCS", "WARPSYNC", "FENCE", "BSSY", "BSYNC"),
}  # fmt: skip
_LIKE_TRITON = ("-lineinfo", "-v", "--regAllocOptLevel=2")
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of machine code; `target` is the address that a branch goes to."""

    address: int
    name: str
    target: int | None = None

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of one warp in a matrix instruction; 0 for others."""
        if found := _HGMMA.match(self.name):
            m, n, k = (int(size) for size in found.groups())
            return m * n * k / WARPGROUP
        return next((count for name, count in _HMMA.items() if self.name.startswith(name)), 0)


@dataclass(frozen=True, slots=True)
class TileLoop:
    """The body of one innermost loop that holds matrix products.

    `per_element`: instructions of a thread for each score element, matrix instructions apart.
    """

    instructions: int
    matrix: int
    elements: float
    per_element: float
    mix: Mapping[str, int]


def run_tool(tool: str, *args: str) -> str:
    """Standard output of a CUDA binary utility that Triton's package carries."""
    command = [str(nvidia_tool(tool)), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def instructions(cubin: bytes) -> list[Instruction]:
    """The machine code of a binary with one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = run_tool("nvdisasm", "-c", file.name)
    return read(text)


def read(text: str) -> list[Instruction]:
    """Instructions from the disassembler's text, branches resolved."""
    labels: dict[str, int] = {}
    for label in _LABEL.finditer(text):
        following = _INSTRUCTION.search(text, label.end())
        if following:
            labels[label[1]] = int(following[1], 16)
    found = []
    for line in _INSTRUCTION.finditer(text):
        jump = re.search(r"`\((\.L_\w+)\)", line[4])
        target = labels.get(jump[1]) if jump and line[3].startswith("BRA") else None
        found.append(Instruction(int(line[1], 16), line[3], target))
    return found


def tile_loops(code: list[Instruction], width: int) -> list[TileLoop]:
    """The innermost loops with matrix products, in order.

    `width` is the multiply-adds of all products together for one score element: products times
    head dimension.
    """
    ranges = list(_innermost(code))
    return [_measured([x for x in code if head <= x.address <= end], width) for head, end in ranges]


def _innermost(code: list[Instruction]) -> Iterator[tuple[int, int]]:
    """(first, last address) of the loops that hold products and no loop that does."""
    loops: dict[int, int] = {}
    for x in code:
        if x.target is not None and x.target < x.address:
            loops[x.target] = max(loops.get(x.target, 0), x.address)
    products = [x.address for x in code if x.multiply_adds]
    busy = {(a, b) for a, b in loops.items() if any(a <= p <= b for p in products)}
    for a, b in sorted(busy):
        if not any((c, d) != (a, b) and a <= c and d <= b for c, d in busy):
            yield a, b


def _measured(body: list[Instruction], width: int) -> TileLoop:
    products = [x for x in body if x.multiply_adds]
    elements = sum(x.multiply_adds for x in products) / width
    mix = Counter(_KIND_OF.get(x.name.partition(".")[0], "other") for x in body)
    rest = len(body) - len(products)
    return TileLoop(
        len(body), len(products), elements, rest * THREADS / elements, dict(sorted(mix.items()))
    )


def serialised(ptx: str) -> bool:
    """Whether the assembler gives up overlapping `wgmma` instructions, as for want of registers."""
    return "serialized" in _said(ptx)


def spilled(ptx: str) -> bool:
    """Whether the assembler spills registers; what else lies in local memory, as a table by which
    sines of large numbers are found, is no spill."""
    return re.search(r"\b[1-9]\d* bytes spill", _said(ptx)) is not None


def _said(ptx: str) -> str:
    """What the assembler says of a kernel in PTX, for the architecture that it names."""
    (arch,) = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)
    newest = int(re.sub(r"\D", "", arch)) >= 100
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        tool = nvidia_tool("ptxas-blackwell" if newest else "ptxas")
        command = [str(tool), *_LIKE_TRITON, f"--gpu-name={arch}", file.name]
        command += ["-o", "/dev/null"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr
