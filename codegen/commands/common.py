"""What the commands share: the SPEC argument, JSON output, and the way from text to spec."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from attnspec.codegen import library
from attnspec.codegen.commands.report import print_findings

if TYPE_CHECKING:
    from attnspec.dsl.ast import Spec


class SpecArgument(click.ParamType[str]):
    """A path or a library name; there being none is a usage error."""

    name = "spec"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not library.exists(value):
            self.fail(library.missing(value), param, ctx)
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in library.names() if name.startswith(incomplete)]
        return [*found, CompletionItem(incomplete, type="file")]


SPEC = SpecArgument()
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def echo_json(value: object) -> None:
    """Print `value` for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def read_spec(name_or_path: str) -> Spec:
    """The checked spec, its warnings printed to stderr; AttnError when there is an error."""
    from attnspec.dsl.check import check
    from attnspec.dsl.parse import parse

    text, path = library.find(name_or_path)
    spec, warnings = check(parse(text, path))
    print_findings(warnings, text, path, err=True)
    return spec
