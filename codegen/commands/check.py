"""`attnspec check`: diagnostics of specs."""

from __future__ import annotations

from dataclasses import dataclass

import click

from attnspec.codegen import library
from attnspec.codegen.commands.common import SPEC, as_json, echo_json
from attnspec.codegen.commands.report import print_error, print_findings
from attnspec.dsl.diagnostics import AttnError, Diagnostic


@dataclass(frozen=True, slots=True)
class Outcome:
    """What checking one SPEC found: an error, or perhaps warnings."""

    spec: str
    text: str
    path: str
    error: AttnError | None
    warnings: tuple[Diagnostic, ...]


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, required=True, metavar="SPEC...")
@as_json
@click.pass_context
def check(ctx: click.Context, specs: tuple[str, ...], as_json: bool) -> None:
    """Say what is wrong with each SPEC; exit status 1 if there is an error in any."""
    outcomes = [_check(name) for name in specs]
    if as_json:
        echo_json([_as_json(outcome) for outcome in outcomes])
    else:
        for outcome in outcomes:
            _print(outcome)
    ctx.exit(1 if any(outcome.error for outcome in outcomes) else 0)


def _check(name: str) -> Outcome:
    from attnspec.dsl.check import check
    from attnspec.dsl.parse import parse

    text, path = "", name
    try:
        text, path = library.find(name)
        _, warnings = check(parse(text, path))
    except AttnError as error:
        return Outcome(name, text, path, error, ())
    return Outcome(name, text, path, None, warnings)


def _print(outcome: Outcome) -> None:
    if outcome.error:
        print_error(outcome.error, err=False)
        return
    print_findings(outcome.warnings, outcome.text, outcome.path, err=False)
    count = len(outcome.warnings)
    verdict = f"{count} warning{'s' if count > 1 else ''}" if count else "clean"
    click.echo(f"{outcome.path}: {verdict}")


def _as_json(outcome: Outcome) -> dict[str, object]:
    from attnspec.dsl.render_diagnostic import to_json

    error = outcome.error
    found = error.diagnostics if error else outcome.warnings
    return {
        "spec": outcome.spec,
        "path": outcome.path,
        "ok": error is None,
        "message": str(error) if error else "",
        "diagnostics": [to_json(finding, outcome.path) for finding in found],
    }
