"""Diagnostics on a terminal, or as plain text where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from attnspec.dsl.diagnostics import AttnError, Diagnostic


def print_error(error: AttnError, *, err: bool) -> None:
    """All findings of `error`, or its message where it has none; `err`: to stderr."""
    if error.diagnostics:
        print_findings(error.diagnostics, error.text, error.path, err=err)
    else:
        click.echo(f"error: {error}", err=err)


def print_findings(found: Iterable[Diagnostic], text: str, path: str, *, err: bool) -> None:
    """Each finding with its place in `text`."""
    from attnspec.dsl.render_diagnostic import coloured, plain

    if (sys.stderr if err else sys.stdout).isatty():
        from rich.console import Console

        console = Console(stderr=err, highlight=False)
        for finding in found:
            console.print(coloured(finding, text, path), soft_wrap=True)
    else:
        for finding in found:
            click.echo(plain(finding, text, path), err=err)
