"""`attnspec list`: the library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from attnspec.codegen import library
from attnspec.codegen.commands.common import as_json, echo_json, read_spec

if TYPE_CHECKING:
    from attnspec.codegen.plan import Stage


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

    table = Table("name", "title", "catalog", "lowering", "backward", box=None, pad_edge=False)
    for row in rows:
        lowerings = dict.fromkeys(stage.lowering for stage in row.stages)
        backward = "yes" if row.backward else "no"
        table.add_row(row.name, row.title, " ".join(row.catalog), " ".join(lowerings), backward)
    Console(highlight=False).print(table)
