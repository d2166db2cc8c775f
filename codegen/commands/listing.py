"""`attnspec list`: the library."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from attnspec.codegen import library
from attnspec.codegen.commands.common import as_json, echo_json, read_spec

if TYPE_CHECKING:
    from attnspec.codegen.plan import Stage

_WIDE = 1000
_ROOM = 150  # below it, what the papers and the catalog say is left out


@dataclass(frozen=True, slots=True)
class Row:
    """What `list` says of one spec; `backward`: every float input's gradient is generated."""

    name: str
    title: str
    cite: tuple[str, ...]
    catalog: tuple[str, ...]
    stages: tuple[Stage, ...]
    backward: bool


@click.command("list")
@as_json
def listing(as_json: bool) -> None:
    """Every library spec: title, cite, catalog rows, lowering of each stage, backward."""
    rows = [describe(name) for name in library.names()]
    if as_json:
        echo_json([asdict(row) for row in rows])
    else:
        _print(rows)


def describe(name: str) -> Row:
    """What `list` says of the library spec `name`."""
    from attnspec.codegen.plan import plan as make_plan
    from attnspec.dsl.analysis import analyze

    spec = read_spec(name)
    plan = make_plan(spec, analyze(spec))
    return Row(spec.name, spec.title, spec.cites, spec.catalog, plan.stages, plan.backward)


def _print(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    # In a file or a pipe lines are as long as they need to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    titles = ["name", "lowering", "backward", "title"]
    if console.width >= _ROOM:
        titles += ["catalog", "cite"]
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title in ("name", "lowering", "backward"))
    for row in rows:
        lowering = ", ".join(dict.fromkeys(stage.lowering for stage in row.stages))
        backward = "yes" if row.backward else "no"
        cells = [row.name, lowering, backward, row.title, " ".join(row.catalog)]
        table.add_row(*[*cells, ", ".join(row.cite)][: len(titles)])
    console.print(table)
