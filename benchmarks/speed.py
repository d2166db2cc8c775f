"""Times the suite beside what a user would call instead: `make bench` and `make bench-gpu`.

`python -m benchmarks.speed cpu` takes a quarter of an hour on two cores, `gpu` under eight. Results
are kept in benchmarks/results/<machine>/. Without a GPU, `gpu` runs the same cases at toy sizes
under Triton's interpreter, to see that everything works: those times are no figures and are not
kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnspec.runtime.bench import Measured, Request

SECONDS = {"cpu": 840.0, "gpu": 450.0, "toy": 420.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", choices=["cpu", "gpu"])
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CASE", help="Default: every case."
    )
    parser.add_argument("--seconds", type=float, help="After which no further case starts.")
    parser.add_argument("-o", "--output", type=Path, help="Another folder than benchmarks/results.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        # What a first call compiles is reported: nothing of it may be there already.
        for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "ATTNSPEC_CACHE"):
            os.environ[name] = os.path.join(cache, name)
        run(options.device, options.only, options.seconds, options.output)


def run(device: str, only: list[str], seconds: float | None, output: Path | None) -> None:
    """Measure, print what was found, and keep it where it is of any use."""
    import torch

    kind = device if device == "cpu" or torch.cuda.is_available() else "toy"
    if kind == "toy":
        os.environ["TRITON_INTERPRET"] = "1"  # read as modules are imported
        print("no CUDA GPU here: toy sizes under the interpreter, whose times are no figures\n")
    from benchmarks import page, results, suite

    torch.set_num_threads(min(suite.CPU_THREADS, os.cpu_count() or 1))
    about = results.about("cuda" if kind == "gpu" else "cpu")
    requests = {"cpu": suite.cpu, "gpu": suite.gpu, "toy": suite.toy}[kind]()
    chosen = [request for request in requests if not only or request.case in only]
    measured, left = _measured(chosen, SECONDS[kind] if seconds is None else seconds)
    found = results.Results(about, measured, left)
    if kind == "toy":
        print("\n" + page.toy(found))
    else:
        print("\n" + page.run(found))
        print(f"{results.write(found, output or results.FOLDER)} written")
    if any(one.wrong for one in measured):
        raise SystemExit(1)


def _measured(
    requests: list[Request], seconds: float
) -> tuple[tuple[Measured, ...], tuple[str, ...]]:
    """What was measured before the time was over, and the cases that it did not suffice for."""
    from attnspec.runtime.bench import bench

    begin = time.monotonic()
    measured: list[Measured] = []
    left: list[str] = []
    for request in requests:
        shape = request.shape
        name = f"{request.case}, length {shape.length}, {shape.channels} channels, {shape.dtype}"
        if time.monotonic() - begin > seconds:
            left.append(name)
            continue
        print(f"{time.monotonic() - begin:6.0f} s  {name}", flush=True)
        measured += bench(request)
    return tuple(measured), tuple(dict.fromkeys(left))


if __name__ == "__main__":
    main()
