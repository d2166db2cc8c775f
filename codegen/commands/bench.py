"""`attnspec bench`: speed beside what a user would call instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from attnspec.codegen.commands.common import SPEC, as_json, echo_json

if TYPE_CHECKING:
    from attnspec.runtime.bench import Measured, Row

_AGAINST = ("sdpa", "eager", "flex", "reference")
_COUNT = click.IntRange(1)


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
    default="sdpa,eager",
    show_default=True,
    metavar="NAMES",
    help=f"Any of {', '.join(_AGAINST)}, with commas between.",
)
@click.option("--batch", type=_COUNT, help="Batch size.")
@click.option("--heads", type=_COUNT, help="Query heads.")
@click.option("--kv-heads", type=_COUNT, help="Key heads; default: as many.")
@click.option("--length", type=_COUNT, help="Tokens.")
@click.option("--rows", type=_COUNT, help="Queries, the last tokens; default: all.")
@click.option("--channels", type=_COUNT, help="Size of a head.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]))
@click.option(
    "--seconds", type=click.FloatRange(0), default=1.0, show_default=True, help="Of rounds, each."
)
@as_json
def bench(
    specs: tuple[str, ...], against: tuple[str, ...], seconds: float, as_json: bool, **sizes: Any
) -> None:
    """Time each SPEC's kernels beside others on the same tensors, in turns.

    A ratio is our time over theirs in one round: the median, and its quartiles. Kernels that do
    not hold against the reference are not timed. On a GPU where there is one.
    """
    from attnspec.runtime.bench import Request, default_shape
    from attnspec.runtime.bench import bench as time_spec

    given = {name: value for name, value in sizes.items() if value is not None}
    shape = replace(default_shape(), **given)
    if shape.heads % (shape.kv_heads or 1):
        raise click.BadParameter(f"{shape.heads} heads are no multiple", param_hint="--kv-heads")
    requests = [Request(name, shape, against, seconds=seconds) for name in specs]
    found = [measured for request in requests for measured in time_spec(request)]
    if as_json:
        echo_json([asdict(measured) for measured in found])
    else:
        show(found)
    if any(measured.wrong for measured in found):
        raise click.exceptions.Exit(1)


def show(found: Sequence[Measured]) -> None:
    """Print a table for each spec, size and phase, with its notes under it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for one in found:
        title = f"{one.case}, {one.phase}, {size(one)}"
        if one.wrong:
            console.print(f"{title}\n  nothing timed: {one.wrong}\n", soft_wrap=True, markup=False)
            continue
        table = Table("implementation", title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("ms", "ours / its", "quartiles", "MiB", "first call ms"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in one.found:
            table.add_row(row.implementation, *_cells(row))
        console.print(table)
        for row in one.found:
            if row.why or row.note:
                text = f"  {row.implementation}: {row.why or row.note}"
                console.print(text, soft_wrap=True, markup=False)
        console.print()


def size(one: Measured) -> str:
    """Batch, heads, queries, keys and channels of a measurement, with its dtype."""
    heads = f"{one.heads}" if one.heads == one.kv_heads else f"{one.heads}:{one.kv_heads}"
    return f"{one.batch} x {heads} x {one.rows} x {one.columns} x {one.channels} {one.dtype}"


def _cells(row: Row) -> tuple[str, ...]:
    if row.milliseconds is None:
        return ("-",) * 5
    ratio = row.ratio
    return (
        f"{row.milliseconds.median:.2f}",
        "" if ratio is None else f"{ratio.median:.2f}",
        "" if ratio is None else f"{ratio.low:.2f} {ratio.high:.2f}",
        "-" if row.bytes is None else f"{row.bytes / 2**20:.1f}",
        f"{row.first_ms:.0f}",
    )
