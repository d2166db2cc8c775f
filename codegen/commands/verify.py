"""`attnspec verify`: random cases against the reference."""

from __future__ import annotations

import click

from attnspec.codegen.commands.common import SPEC

BACKENDS = ("triton", "cpu", "native", "blocked")


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@click.option("--cases", type=click.IntRange(1), default=50, show_default=True, help="A spec.")
@click.option("--seed", type=click.IntRange(0), help="To run the same cases again.")
@click.option("--backend", type=click.Choice(BACKENDS), help="Default: as for a call.")
@click.pass_context
def verify(
    ctx: click.Context, specs: tuple[str, ...], cases: int, seed: int | None, backend: str | None
) -> None:
    """Hold each SPEC's kernels against the reference on random shapes and inputs."""
    from attnspec.runtime.verify import verify as verify_spec

    ok = True
    for name in specs:
        report = verify_spec(name, cases=cases, seed=seed, backend=backend)
        click.echo(report)
        ok = ok and report.ok
    ctx.exit(0 if ok else 1)
