"""`attnspec tune`: tiles measured on the GPU at hand, or compiled without one, written into the
table that launches read."""

from __future__ import annotations

from pathlib import Path

import click

from attnspec.codegen.commands.common import SPEC
from attnspec.dsl.diagnostics import AttnError


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option(
    "--compile-only",
    is_flag=True,
    help="Without a GPU: find smaller tiles for kernels that spill registers.",
)
@click.option(
    "--target",
    help="Such as cuda:90: what to compile for, or refuse to measure on another GPU than this.",
)
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
    specs: tuple[str, ...], compile_only: bool, target: str | None, head_dims: tuple[int, ...],
    dtype: str, length: int, rows: int | None, group: int, output: Path | None,
) -> None:  # fmt: skip
    """Measure tiles of each SPEC's kernels on the GPU at hand and write down the fastest.

    With --compile-only, compile kernels instead and write down smaller tiles for those that spill
    registers: exit status 1 where some kernel has none. Nothing else ever searches: launches take
    their tiles from tables.
    """
    from attnspec.runtime import tiles
    from attnspec.runtime.api import load
    from attnspec.runtime.tune import at_hand, spare
    from attnspec.runtime.tune import tune as search

    here = target if compile_only else at_hand()
    if here is None:
        raise AttnError("target: expected what to compile for, such as cuda:90")
    if target not in (None, here):
        raise AttnError(f"target: expected {here}, the GPU at hand, got {target!r}")
    file, wrote, failed = output or tiles.TUNED, False, False
    for name in specs:
        for head_dim in head_dims:
            call = head_dim, dtype, rows, group
            spec = load(name)
            found = spare(spec, here, *call) if compile_only else search(spec, length, *call)
            for each in found:
                click.echo(
                    f"{name} {each.key.phase} {each.key.channels} channels, {each.key.load}:"
                    f" {each.after or 'no smaller tile'} has {each.what} of {each.before}"
                )
                if each.after is None:
                    failed = True
                else:
                    wrote = True
                    tiles.write_tuned(file, {each.key: each.after})
    click.echo(f"{file} written" if wrote else "nothing to write")
    if failed:
        raise click.exceptions.Exit(1)
