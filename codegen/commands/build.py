"""`attnspec build`: generated modules, and their kernels compiled ahead of time."""

from __future__ import annotations

from pathlib import Path

import click

from attnspec.codegen.artefacts import update_directory
from attnspec.codegen.commands.common import SPEC, read_spec
from attnspec.dsl.diagnostics import AttnError

DTYPES = ("fp32", "fp16", "bf16")


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The directory to write to.",
)
@click.option("--target", "targets", multiple=True, help="Compile for it too: cuda:90, ...")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), default=("bf16",))
@click.option("--head-dim", "head_dims", multiple=True, type=click.IntRange(1), default=(64,))
@click.option("--require", type=click.Choice(["fused"]), help="Refuse what no kernel covers.")
def build(
    specs: tuple[str, ...],
    output: Path,
    targets: tuple[str, ...],
    dtypes: tuple[str, ...],
    head_dims: tuple[int, ...],
    require: str | None,
) -> None:
    """Write each SPEC's module to DIR; --target compiles its kernels without a GPU."""
    from attnspec.codegen.plan import plan as make_plan
    from attnspec.codegen.render import render
    from attnspec.dsl.analysis import analyze

    for name in specs:
        spec = read_spec(name)
        plan = make_plan(spec, analyze(spec))
        dense = [f"{s.name}: {s.why}" for s in plan.stages if s.lowering == "dense"]
        if dense and require == "fused":
            raise AttnError(f"{spec.name} has no kernel ({'; '.join(dense)})")
        source = render(spec, plan)
        files = {f"{spec.name}.py": source.encode()}
        try:
            update_directory(output, files)
        except OSError as error:
            raise AttnError(f"{output} cannot be written: {error}") from None
        click.echo(f"{output / spec.name}.py written")
