"""`attnspec plot`: a picture of the mask and the weights."""

from __future__ import annotations

from pathlib import Path

import click

from attnspec.codegen.commands.common import SPEC, read_spec


@click.command()
@click.argument("spec", type=SPEC)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The picture: .png or .svg.",
)
@click.option("--length", type=click.IntRange(1, 1024), default=48, show_default=True)
def plot(spec: str, output: Path, length: int) -> None:
    """Draw which pairs SPEC lets take part, their tiles, and their weights for random inputs."""
    if output.suffix not in (".png", ".svg"):
        raise click.BadParameter("the picture is a .png or a .svg", param_hint="--output")
    from attnspec.runtime.plot import draw

    draw(read_spec(spec), output, length)
    click.echo(f"{output} written")
