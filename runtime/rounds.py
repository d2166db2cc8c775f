"""Times and memory of several calls, measured in turns: what one second slows, slows them all."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

Call = Callable[[], object]

LEAST, MOST = 5, 100  # rounds
_SAMPLE = 5.0  # milliseconds: a shorter call is repeated until it takes as long
_REPEATS = 1000
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt
_FREED, _USUAL = 1 << 16, 1 << 25  # glibc moves its own threshold up to the latter as it goes


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between its quartiles."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Quartiles, between neighbours in proportion; of one value, the value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Our time over theirs, round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def rounds(
    calls: Mapping[str, Call],
    device: str,
    *,
    seconds: float,
    limit: float | None = None,
    about: Mapping[str, float] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of one call by name, a number for each round; all have been called before, and
    took `about` so many milliseconds.

    Every round calls each once, in an order that moves on by one a round. At least `LEAST` rounds
    and until `seconds` have passed; but after `limit` seconds, if there is one, the round that is
    running is the last.
    """
    names = list(calls)
    about = about or {name: _once(call, device, 1) for name, call in calls.items()}
    repeats = {
        name: min(_REPEATS, max(1, round(_SAMPLE / max(about[name], 1e-3)))) for name in names
    }
    found: dict[str, list[float]] = {name: [] for name in names}
    started = time.monotonic()
    for count in range(MOST):
        for name in names[count % len(names) :] + names[: count % len(names)]:
            found[name].append(_once(calls[name], device, repeats[name]))
        passed = time.monotonic() - started
        if (limit is not None and passed > limit) or (count + 1 >= LEAST and passed > seconds):
            break
    return found


def _once(call: Call, device: str, repeats: int) -> float:
    """Milliseconds of one call, the mean of `repeats` in a row."""
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) * 1e3 / repeats


def first(call: Call, device: str) -> float:
    """Milliseconds of a first call, whatever it compiles included."""
    if device == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) * 1e3


class Memory:
    """Bytes in use from a moment on; None where the system does not tell.

    On a GPU what PyTorch has allocated there. On a CPU the process' resident memory, of which the
    kernel keeps the high-water mark (Linux): free memory is given back before, and at once while a
    call is measured, so that what is reused counts and what is freed does not.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._before = self._settled()

    def kept(self) -> int | None:
        """What is in use now and was not at the start."""
        now = self._settled()
        return None if now is None or self._before is None else max(now - self._before, 0)

    def peak(self, call: Call) -> int | None:
        """The most in use at once during `call` that was not at the start."""
        if self._before is None:
            return None
        self._settled()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            call()
            torch.cuda.synchronize()
            return max(torch.cuda.max_memory_allocated() - self._before, 0)
        _give_back(_FREED)
        try:
            _RESET.write_text("5")  # the high-water mark starts anew at what is resident
            call()
            return max(_resident("VmHWM") - self._before, 0)
        finally:
            _give_back(_USUAL)

    def _settled(self) -> int | None:
        gc.collect()
        if self.device == "cuda":
            torch.cuda.synchronize()
            return int(torch.cuda.memory_allocated())
        if not (_STATUS.exists() and _RESET.exists()):
            return None
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        return _resident("VmRSS")


def _give_back(above: int) -> None:
    """Let the C library give memory back as soon as it is freed in pieces `above` so many bytes."""
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        change(_MMAP_THRESHOLD, above)
        change(_TRIM_THRESHOLD, 2 * above)


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise AssertionError(f"{_STATUS} has no {field}")
