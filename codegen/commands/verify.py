"""`attnspec verify`: random cases against the reference."""

from __future__ import annotations

import click

from attnspec.codegen.commands.common import SPEC


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option("--cases", type=click.IntRange(1), default=50, show_default=True, help="A spec.")
@click.option("--seed", type=click.IntRange(0), help="To run the same cases again.")
@click.option("--backend", type=click.Choice(["triton", "cpu"]), help="Default: as for a call.")
@click.pass_context
def verify(
    ctx: click.Context, specs: tuple[str, ...], cases: int, seed: int | None, backend: str | None
) -> None:
    """Hold each SPEC's kernels against the reference on random shapes and inputs."""
    from attnspec.runtime.verify import verify as verify_spec

    results = [verify_spec(name, cases=cases, seed=seed, backend=backend) for name in specs]
    for result in results:
        click.echo(result)
    ctx.exit(0 if all(result.ok for result in results) else 1)
