"""`attnspec explain`: what was read, proved and planned."""

from __future__ import annotations

import click

from attnspec.codegen.commands.common import SPEC, as_json, echo_json, read_spec


@click.command()
@click.argument("spec", type=SPEC)
@as_json
def explain(spec: str, as_json: bool) -> None:
    """Print SPEC's equations, the facts with their proofs, the plan and a picture of tiles."""
    from attnspec.codegen.explanation import data, lines
    from attnspec.codegen.plan import plan as make_plan
    from attnspec.dsl.analysis import analyze

    checked = read_spec(spec)
    facts = analyze(checked)
    plan = make_plan(checked, facts)
    if as_json:
        echo_json(data(checked, facts, plan))
    else:
        for line in lines(checked, facts, plan):
            click.echo(line)
