"""From specs to checked, differentiable kernels in one table.

Takes specs of the library, checks them, writes their generated modules to build/, runs forward
and backward on the CPU default and through the Triton interpreter, and holds both against the
dense float64 reference. Then draws one mask. Run it with `make demo`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import attnspec
from attnspec.artefacts import update_directory
from attnspec.runtime.api import Attention
from attnspec.runtime.plot import draw
from attnspec.runtime.typical import Arguments, typical

SPECS = (
    "causal",
    "sliding_window",
    "alibi",
    "t5",
    "softcap",
    "sink",
    "documents",
    "natten",
    "sigmoid",
    "gated_elementwise",
)
BUILD = Path("build")
PICTURE = BUILD / "natten.png"
TOLERANCE = 1e-5  # relative root mean square, float32


@dataclass(frozen=True, slots=True)
class Run:
    """One backend held against the reference: worst errors over the output and all gradients."""

    largest: float
    relative: float
    seconds: float


def values_and_gradients(
    attention: Attention, given: Arguments, backend: str
) -> tuple[dict[str, Tensor], float]:
    """The output and the gradient of every float argument, and the seconds they took."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in given.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    arguments = {**given, **leaves}
    start = time.perf_counter()
    if backend == "reference":
        output = attention.reference(**arguments)
    else:
        output = attention(**arguments, backend=backend)
    upstream = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
    gradients = torch.autograd.grad(output, list(leaves.values()), upstream)
    seconds = time.perf_counter() - start
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}, seconds


def compare(
    attention: Attention,
    given: Arguments,
    expected: dict[str, Tensor],
    backend: str,
) -> Run:
    found, seconds = values_and_gradients(attention, given, backend)
    largest = relative = 0.0
    for name, want in expected.items():
        error = found[name].double() - want.double()
        largest = max(largest, error.abs().max().item())
        size = want.double().square().mean().sqrt().item()
        relative = max(relative, error.square().mean().sqrt().item() / max(size, 1e-12))
    return Run(largest, relative, seconds)


def main() -> None:
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported
    table = Table(box=None, pad_edge=False)
    for title in ("spec", "lowering"):
        table.add_column(title, no_wrap=True, min_width=18 if title == "spec" else 8)
    for backend in ("cpu", "triton" if torch.cuda.is_available() else "interpreter"):
        table.add_column(f"error, {backend}", justify="right", no_wrap=True)
        table.add_column("time", justify="right", no_wrap=True)
    files: dict[str, bytes] = {}
    worst = 0.0
    for name in SPECS:
        attention = attnspec.load(name)
        files[f"{name}.py"] = attention.source.encode()
        given = typical(attention.spec, batch=1, heads=2, length=80, channels=32)
        expected, _ = values_and_gradients(attention, given, "reference")
        cells = []
        for backend in ("cpu", "triton"):
            run = compare(attention, given, expected, backend)
            worst = max(worst, run.relative)
            cells += [f"{run.largest:.1e}", f"{run.seconds:.2f} s"]
        lowerings = dict.fromkeys(stage.lowering for stage in attention.plan.stages)
        table.add_row(name, ", ".join(lowerings), *cells)
    update_directory(BUILD, files)
    natten = attnspec.load("natten")
    draw(natten.spec, PICTURE, 64)

    console = Console(highlight=False)
    console.print("largest error of output and gradients, float32, against the float64 reference")
    console.print(table)
    console.print(f"{len(files)} modules in {BUILD}/, a picture in {PICTURE}")
    if worst >= TOLERANCE:
        raise SystemExit(f"an error of {worst:.1e}, relative, is more than {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
