"""`attnspec bench`: speed beside PyTorch's own attention."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from attnspec.codegen.commands.common import SPEC, as_json, echo_json

if TYPE_CHECKING:
    from attnspec.runtime.bench import Timing

_AGAINST = ("sdpa", "flex", "reference")


def _others(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for name in value.split(",") if name))
    for name in names:
        if name not in _AGAINST:
            raise click.BadParameter(f"{name!r} is none of {', '.join(_AGAINST)}")
    return names


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option(
    "--against",
    callback=_others,
    default="sdpa",
    show_default=True,
    metavar="NAMES",
    help=f"Any of {', '.join(_AGAINST)}, with commas between.",
)
@click.option("--length", type=click.IntRange(1), help="Tokens.")
@click.option("--channels", type=click.IntRange(1), help="Size of a head.")
@as_json
def bench(
    specs: tuple[str, ...],
    against: tuple[str, ...],
    length: int | None,
    channels: int | None,
    as_json: bool,
) -> None:
    """Time each SPEC's kernels, forward and backward, on a GPU where there is one."""
    from attnspec.runtime.bench import bench as time_spec
    from attnspec.runtime.bench import default_shape

    shape = default_shape()
    shape = replace(shape, length=length or shape.length, channels=channels or shape.channels)
    timings = [timing for name in specs for timing in time_spec(name, against, shape)]
    if as_json:
        echo_json([asdict(timing) for timing in timings])
    else:
        _print(timings)


def _print(timings: list[Timing]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = timings[0]
    title = f"milliseconds on {first.device}, {first.dtype}"
    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for column in ("spec", "implementation", "shape"):
        table.add_column(column, no_wrap=True)
    for column in ("forward", "forward + backward"):
        table.add_column(column, justify="right")
    for t in timings:
        shape = f"{t.batch} x {t.heads} x {t.rows} x {t.columns} x {t.channels}"
        times = ["-" if x is None else f"{x:.2f}" for x in (t.forward, t.backward)]
        table.add_row(t.spec, t.implementation, shape, *times)
    console = Console(highlight=False)
    console.print(table)
    for name, note in dict.fromkeys((t.implementation, t.note) for t in timings if t.note):
        console.print(f"{name}: {note}", soft_wrap=True)
