"""`attnspec tune`: tiles measured on the GPU at hand, written into the table that launches read."""

from __future__ import annotations

from pathlib import Path

import click

from attnspec.codegen.commands.common import SPEC
from attnspec.dsl.diagnostics import AttnError


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option("--target", help="Refuse to measure on another GPU than this, such as cuda:90.")
@click.option(
    "--head-dim", "head_dims", type=click.IntRange(1), multiple=True, default=(64, 128),
    show_default=True,
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["bf16", "fp16", "fp32"]), default="bf16", show_default=True
)
@click.option("--length", type=click.IntRange(1), default=8192, show_default=True)
@click.option("--rows", type=click.IntRange(1), help="Queries, the last tokens; default: all.")
@click.option(
    "--group", type=click.IntRange(1, 16), default=1, show_default=True,
    help="Query heads to a key head.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path),
    help="Another file than the table that launches read.",
)  # fmt: skip
def tune(
    specs: tuple[str, ...], target: str | None, head_dims: tuple[int, ...], dtype: str,
    length: int, rows: int | None, group: int, output: Path | None,
) -> None:  # fmt: skip
    """Measure tiles of each SPEC's kernels on the GPU at hand and write down the fastest.

    Nothing else ever searches: launches take their tiles from tables.
    """
    from attnspec.runtime import tiles
    from attnspec.runtime.api import load
    from attnspec.runtime.tune import at_hand
    from attnspec.runtime.tune import tune as search

    here = at_hand()
    if target not in (None, here):
        raise AttnError(f"target: expected {here}, the GPU at hand, got {target!r}")
    file = output or tiles.TUNED
    for name in specs:
        for head_dim in head_dims:
            for found in search(load(name), length, head_dim, dtype, rows, group):
                click.echo(
                    f"{name} {found.key.phase} {found.key.channels} channels, {found.key.load}:"
                    f" {found.after} takes {found.ratio:.2f} of the time of {found.before}"
                )
                tiles.write_tuned(file, {found.key: found.after})
    click.echo(f"{file} written")
