"""Pictures for docs/ from the last results on every machine: `python -m benchmarks.plots`.

The same results give the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import ROOT, Results, latest

from attnspec.runtime.bench import BOTH, FORWARD, OURS, Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = ROOT / "docs"
_COLOURS = {"sdpa": "#4477aa", "eager": "#ccbb44", "flex": "#ee6677"}
_GPU_SDPA = "#66ccee"


def pictures(found: Results) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """File name, title and drawing of every picture that a run has something for."""
    timed = [one for one in found.measured if any(row.ratio for row in one.found)]
    alone = [one for one in found.measured if one.found and one not in timed]
    folder = found.about.folder
    if timed:
        yield f"speed-{folder}.svg", "our time over theirs", lambda: ratios(timed)
    if any(row.bytes for one in alone for row in one.found):
        yield f"memory-{folder}.svg", "our memory by length", lambda: memory(alone)


def ratios(timed: Sequence[Measured]) -> Figure:
    """Bars of our time over that of others, forward above, with backward below."""
    cases = list(dict.fromkeys((one.case, one.columns, one.channels) for one in timed))
    figure, axes = _figure(2, max(6.0, 0.75 * len(cases) + 1.5), 5.6)
    for axis, phase in zip(axes, (FORWARD, BOTH), strict=True):
        of = [one for one in timed if one.phase == phase]
        names = dict.fromkeys(row.implementation for one in of for row in one.found if row.ratio)
        for place, name in enumerate(names):
            _bars(axis, cases, of, name, (place - (len(names) - 1) / 2) / (len(names) + 1), names)
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set(ylabel="our time / theirs", title=phase, yscale="log")
        axis.set_xticks(
            range(len(cases)), [_label(*case) for case in cases], rotation=30, ha="right"
        )
        if names:
            axis.legend(ncols=len(names), frameon=False)
    return figure


def _bars(
    axis: Any, cases: Sequence[tuple[str, int, int]], of: Sequence[Measured], name: str,
    shift: float, names: dict[str, None],
) -> None:  # fmt: skip
    places, heights, below, above = [], [], [], []
    for one in of:
        row = one.row(name)
        if row is not None and row.ratio is not None:
            ratio = row.ratio
            places.append(cases.index((one.case, one.columns, one.channels)) + shift)
            heights.append(ratio.median - 1)  # a bar goes up or down from 1
            below.append(ratio.median - ratio.low)
            above.append(ratio.high - ratio.median)
    axis.bar(
        places, heights, 1 / (len(names) + 1), bottom=1.0,
        label=name, color=_COLOURS.get(name, _GPU_SDPA),
        yerr=(below, above), error_kw={"linewidth": 0.8},
    )  # fmt: skip


def memory(alone: Sequence[Measured]) -> Figure:
    """Lines of our memory over the length."""
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for one in alone:
        row = one.row(OURS)
        if row is not None and row.bytes:
            point = one.columns, row.bytes / 2**20
            lines.setdefault((one.case, one.phase), []).append(point)
    figure, (axis,) = _figure(1, 5.6, 3.6)
    for (case, phase), points in lines.items():
        style = "-o" if phase == FORWARD else "--s"
        axis.plot(*zip(*sorted(points), strict=True), style, label=f"{case}, {phase}", markersize=4)
    axis.set(xlabel="length", ylabel="MiB beyond the arguments", xscale="log", yscale="log")
    lengths = sorted({length for points in lines.values() for length, _ in points})
    axis.set_xticks(lengths, [str(length) for length in lengths])
    axis.minorticks_off()
    axis.legend(frameon=False)
    return figure


def _label(case: str, length: int, channels: int) -> str:
    return f"{case}\nN {length}, D {channels}"


def _figure(rows: int, width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False)[:, 0]


def draw(runs: Sequence[Results], folder: Path) -> tuple[Path, ...]:
    """Write every picture of the results."""
    import matplotlib as mpl

    made = []
    with mpl.rc_context({"svg.hashsalt": "attnspec", "font.size": 8}):
        for found in runs:
            for name, _, picture in pictures(found):
                picture().savefig(folder / name, metadata={"Date": None})
                made.append(folder / name)
    return tuple(made)


def main() -> None:
    for file in draw(latest(), DOCS):
        print(f"{file.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
