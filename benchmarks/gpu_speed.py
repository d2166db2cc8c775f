"""Speed of generated kernels on a CUDA GPU beside PyTorch's own, on the same tensors.

Times forward, and forward with backward, of a few specs in bfloat16 beside every backend of
scaled_dot_product_attention that takes them and compiled FlexAttention, and writes what it found
to benchmarks/results/. TFLOP/s count 4 * D for each pair that takes part (so causal counts half)
forward and 3.5 times that with the backward pass. Ends within eight minutes. Run it with
`make bench-gpu`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import attnspec
from attnspec.runtime import verify_case
from attnspec.runtime.bench import milliseconds
from attnspec.runtime.verify_rule import hold

DEVICE = "cuda"
CHANNELS = (64, 128)
SECONDS = 420.0
BATCH_TOKENS, WIDTH = 16_384, 2_048  # batch * length and heads * channels, held fixed
RESULTS = Path(__file__).parent / "results"
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A spec, the number of its pairs at a length, and what says the same elsewhere."""

    spec: str
    pairs: Callable[[int], int]
    causal: bool
    window: int | None = None
    sdpa: bool = True


def _windowed(window: int) -> Callable[[int], int]:
    return lambda n: sum(min(i + 1, window) for i in range(n))


CASES = (
    Case("full", lambda n: n * n, causal=False),
    Case("causal", lambda n: n * (n + 1) // 2, causal=True),
    Case("sliding_window", _windowed(1024), causal=True, window=1024, sdpa=False),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds and TFLOP/s of one implementation at one size."""

    spec: str
    implementation: str
    length: int
    channels: int
    forward_ms: float
    both_ms: float
    forward_tflops: float
    both_tflops: float


def rows(case: Case, length: int, channels: int) -> Iterator[Row]:
    """Every implementation that takes the case."""
    shape = (BATCH_TOKENS // length, WIDTH // channels, length, channels)
    q, k, v = (
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    flops = 4 * channels * shape[0] * shape[1] * case.pairs(length)
    for name, call in implementations(case, q, k, v):
        try:
            forward, both = times(call, q, k, v)
        except RuntimeError as error:
            print(f"  {case.spec} {length} {channels}: {name} does not run: {first_line(error)}")
            continue
        yield Row(
            case.spec,
            name,
            length,
            channels,
            forward,
            both,
            flops / forward / 1e9,
            3.5 * flops / both / 1e9,
        )


def implementations(
    case: Case, q: Tensor, k: Tensor, v: Tensor
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    attention = attnspec.load(case.spec)
    options: dict[str, Any] = {} if case.window is None else {"window": case.window}
    yield "attnspec", lambda: attention(q, k, v, **options)
    for name, backend in BACKENDS.items() if case.sdpa else ():

        def call(backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=case.causal)

        yield f"sdpa {name}", call
    mask = None
    if case.causal:
        window = case.window or q.shape[2]
        mask = create_block_mask(
            lambda b, h, i, j: (j <= i) & (i - j < window),
            None,
            None,
            q.shape[2],
            k.shape[2],
            device=DEVICE,
        )
    torch.compiler.reset()
    flex = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    yield "flex", lambda: flex(q, k, v, block_mask=mask)


def times(call: Callable[[], Tensor], q: Tensor, k: Tensor, v: Tensor) -> tuple[float, float]:
    """Milliseconds forward, and forward with backward."""
    upstream = torch.randn_like(call())
    with torch.no_grad():
        forward = milliseconds(call, DEVICE)
    return forward, milliseconds(lambda: torch.autograd.grad(call(), (q, k, v), upstream), DEVICE)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:90]


def problems(case: Case) -> tuple[str, ...]:
    """What is wrong, forward or backward, with the kernels that are about to be timed."""
    attention = attnspec.load(case.spec)
    found: list[str] = []
    for channels in CHANNELS:
        sizes = {"b": 1, "h": 2, "heads": 2, "i": 500, "j": 500, "d": channels, "e": channels}
        call = verify_case.Case(
            tuple(sizes.items()), 0, 0, "bfloat16", "contiguous", "normal", seed=1
        )
        found += hold(attention, call, "triton", DEVICE).problems
    return tuple(found)


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing is timed")
        return
    start = time.monotonic()
    for case in CASES:
        if wrong := problems(case):
            raise SystemExit(f"{case.spec} is wrong on this GPU, nothing is timed: {wrong[0]}")
    found: list[Row] = []
    for length in (1024, 4096, 16_384):
        for channels in CHANNELS:
            for case in CASES:
                if time.monotonic() - start < SECONDS:
                    found += rows(case, length, channels)
    show(found)
    folder = RESULTS / torch.cuda.get_device_name().replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    file = folder / f"{now:%Y-%m-%d-%H%M}.json"
    about = {"torch": torch.__version__, "dtype": "bfloat16", "tokens": BATCH_TOKENS}
    file.write_text(json.dumps({**about, "rows": [asdict(row) for row in found]}, indent=1))
    print(f"{file} written")


def show(found: list[Row]) -> None:
    table = Table("spec", "length", "channels", "implementation", box=None, pad_edge=False)
    for title in ("forward ms", "TFLOP/s", "with backward ms", "TFLOP/s"):
        table.add_column(title, justify="right")
    for row in found:
        table.add_row(
            row.spec,
            str(row.length),
            str(row.channels),
            row.implementation,
            f"{row.forward_ms:.3f}",
            f"{row.forward_tflops:.0f}",
            f"{row.both_ms:.3f}",
            f"{row.both_tflops:.0f}",
        )
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
