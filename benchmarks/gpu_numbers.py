"""The numeric suite with compiled kernels: every library spec, every dtype, on a CUDA GPU.

Random calls (lengths 1 and odd ones, queries and keys of different number, fewer key heads,
shifted positions) go through each spec's kernels, forward and backward. A kernel may be off from
the float64 reference twice as far as plain PyTorch in its own dtype is, a gradient three times.
Several processes compile at once; ends within eight minutes. Run it with `make test-gpu`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import attnspec
from attnspec.codegen import library
from attnspec.runtime.bind import Bound
from attnspec.runtime.reference import evaluate
from attnspec.runtime.sampling import keywords, sample
from attnspec.runtime.signature_of import signature

SECONDS = 420.0
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIZES: tuple[dict[str, int], ...] = (
    {"b": 2, "h": 4, "heads": 2, "i": 200, "j": 200, "d": 64, "e": 64},
    {"b": 1, "h": 2, "heads": 1, "i": 1, "j": 77, "d": 64, "e": 64},
    {"b": 1, "h": 3, "heads": 3, "i": 131, "j": 259, "d": 80, "e": 48},
)
OUTPUT_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
FLOAT32_RMS = 1e-5


@dataclass(frozen=True, slots=True)
class Result:
    """One spec in one dtype: calls made, the worst error as a share of what is allowed."""

    spec: str
    dtype: str
    calls: int
    worst: float
    failure: str = ""


def check(name: str, dtype: torch.dtype, device: str = "cuda") -> Result:
    """Hold the compiled kernels of one spec against the reference."""
    label = str(dtype).removeprefix("torch.")
    attention = attnspec.load(name)
    calls, worst = 0, 0.0
    for seed, sizes in enumerate(SIZES):
        generator = torch.Generator().manual_seed(seed)
        try:
            bound = sample(
                attention.spec,
                generator,
                sizes,
                dtype=dtype,
                device=device,
                requires_grad=True,
            )
        except attnspec.AttnError:
            continue  # the spec requires other sizes than these
        try:
            worst = max(worst, *compare(attention, bound))
        except Exception as error:  # one broken spec must not hide the others
            return Result(name, label, calls, worst, f"{type(error).__name__}: {error}"[:200])
        calls += 1
    failure = "" if worst <= 1 else f"error {worst:.2f} times what is allowed"
    return Result(name, label, calls, worst, failure or ("" if calls else "no call was made"))


def compare(attention: attnspec.Attention, bound: Bound) -> Iterator[float]:
    """Error over allowed error of each output and each gradient."""
    expected = gradients_of(bound, by_reference(attention, bound, torch.float64))
    plain = gradients_of(bound, by_reference(attention, bound, bound.dtype))
    found = gradients_of(bound, by_kernels(attention, bound))
    for name, want in expected.items():
        if not torch.equal(found[name].isfinite(), want.isfinite()):
            yield float("inf")  # a NaN, or a row that is empty on one side alone
            continue
        exact = want.nan_to_num(0, 0, 0)
        error, usual = (x[name].double().nan_to_num(0, 0, 0) - exact for x in (found, plain))
        most = exact.abs().max().item() if exact.numel() else 0.0
        factor = GRADIENT_FACTOR if name.startswith("d ") else OUTPUT_FACTOR
        allowed = factor * usual.abs().max().item() + 8 * torch.finfo(bound.dtype).eps * most
        yield error.abs().max().item() / max(allowed, 1e-30)
        if bound.dtype is torch.float32 and most > 0:
            size = exact.square().mean().sqrt().item()
            yield error.square().mean().sqrt().item() / size / FLOAT32_RMS


def by_kernels(attention: attnspec.Attention, bound: Bound) -> dict[str, Tensor]:
    given = keywords(signature(attention.spec), bound)
    output, extras = attention(**given, extras=True, backend="triton")
    return extras if output is None else {**extras, "output": output}


def by_reference(
    attention: attnspec.Attention, bound: Bound, dtype: torch.dtype
) -> dict[str, Tensor]:
    outputs = evaluate(attention.spec, bound, dtype)
    if outputs.output is None:
        return outputs.extras
    return {**outputs.extras, "output": outputs.output}


def gradients_of(bound: Bound, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`outputs`, and as `d NAME` the gradient of every float argument under fixed upstreams."""
    leaves: dict[str, Tensor] = {}
    for name, value in bound.tensors.items():
        for part, tensor in zip(
            ("", " of keys"), value if isinstance(value, tuple) else (value,), strict=False
        ):
            if tensor.requires_grad:
                leaves[f"d {name}{part}"] = tensor
    total = torch.zeros((), dtype=torch.float64, device=bound.device)
    for name in sorted(outputs):
        tensor = outputs[name]
        if tensor.is_floating_point() and tensor.requires_grad:
            waves = torch.arange(tensor.numel(), device=bound.device).reshape(tensor.shape)
            upstream = torch.cos(1 + 0.37 * waves.double()) * tensor.isfinite()
            total = total + (tensor.double().nan_to_num(0, 0, 0) * upstream).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return {name: t.detach() for name, t in {**outputs, **gradients}.items()}


def main() -> None:
    if not torch.cuda.is_available():
        print("no CUDA GPU here: no kernel is run")
        return
    start = time.monotonic()
    names = [name for name in library.names() if attnspec.load(name).plan.fused]
    tasks = [(name, dtype) for dtype in DTYPES for name in names]
    results: list[Result] = []
    workers = max(1, min(8, (os.cpu_count() or 2) // 2))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(check, name, dtype) for name, dtype in tasks]
        try:
            for future in as_completed(pending, timeout=SECONDS):
                results.append(future.result())
        except TimeoutError:
            pool.shutdown(wait=False, cancel_futures=True)
    show(results, len(tasks), time.monotonic() - start)
    if not results or any(result.failure for result in results):
        raise SystemExit(1)


def show(results: list[Result], planned: int, seconds: float) -> None:
    table = Table("dtype", box=None, pad_edge=False)
    for title in ("specs", "calls", "worst error / allowed", "failed"):
        table.add_column(title, justify="right")
    for dtype in sorted({result.dtype for result in results}):
        of = [result for result in results if result.dtype == dtype]
        worst = max(result.worst for result in of)
        failed = sum(bool(result.failure) for result in of)
        calls = sum(result.calls for result in of)
        table.add_row(dtype, str(len(of)), str(calls), f"{worst:.2f}", str(failed))
    console = Console(highlight=False)
    console.print(table)
    for result in results:
        if result.failure:
            console.print(f"  {result.spec} {result.dtype}: {result.failure}", markup=False)
    console.print(
        f"{len(results)} of {planned} done in {seconds:.0f} s on {torch.cuda.get_device_name()}"
    )


if __name__ == "__main__":
    main()
