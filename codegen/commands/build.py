"""`attnspec build`: generated modules, and their kernels compiled ahead of time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from attnspec.artefacts import update_directory
from attnspec.codegen import library
from attnspec.codegen.commands.common import SPEC, read_spec
from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.cache import cache_key
from attnspec.store import CacheUnusable, fetch

if TYPE_CHECKING:
    from attnspec.dsl.ast import Spec
    from attnspec.runtime.aot import Built

DTYPES = ("fp32", "fp16", "bf16")


@click.command()
@click.argument("specs", type=SPEC, nargs=-1, metavar="SPEC...")
@click.option("--all", "every", is_flag=True, help="Every spec of the library.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The directory to write to.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Compile for it too: cuda:80, cuda:90, cuda:100, hip:gfx942 without a GPU, or this cpu.",
)
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Default: bf16.")
@click.option("--head-dim", "head_dims", multiple=True, type=click.IntRange(1), help="Default: 64.")
@click.option("--require", type=click.Choice(["fused"]), help="Refuse what no kernel covers.")
def build(
    specs: tuple[str, ...],
    every: bool,
    output: Path,
    targets: tuple[str, ...],
    dtypes: tuple[str, ...],
    head_dims: tuple[int, ...],
    require: str | None,
) -> None:
    """Write each SPEC's module to DIR; --target compiles its kernels too.

    What has not changed since an earlier build is taken from the cache. Beside each kernel's binary
    lies a JSON of the same stem: its tile, registers, spills and shared memory. What is compiled
    for this CPU goes to the cache, where calls find it.
    """
    if not specs and not every:
        raise click.UsageError("Missing argument 'SPEC...' (or --all).")
    reports: list[Built] = []
    for path in (*(library.names() if every else ()), *specs):
        name, source, why_not = _built(path)
        if why_not and require == "fused":
            raise AttnError(f"{name} has no kernel ({why_not})")
        if source is None:
            click.echo(f"{name}: no kernel covers it yet, nothing to build", err=True)
            continue
        changed = _write(output, {f"{name}.py": source.encode()})
        click.echo(f"{output / name}.py {'written' if changed else 'unchanged'}")
        if "cpu" in targets:
            _compile_for_cpu(read_spec(path), source)
        gpus = tuple(target for target in targets if target != "cpu")
        if gpus:
            spec = read_spec(path)
            reports += _compile(spec, source, output, gpus, dtypes or ("bf16",), head_dims or (64,))
    if reports:
        _print(reports)


def _built(path: str) -> tuple[str, str | None, str]:
    """A spec's name and generated module (None: no kernel covers it), and why not; from the cache
    where an earlier build has put it there."""
    text, _ = library.find(path)
    try:
        _, data = fetch("builds", cache_key(text, {}), "build.json", lambda: _build(path))
    except CacheUnusable as error:  # as good, but for the next time
        data = error.data
    name, source, why_not = json.loads(data)
    return name, source, why_not


def _build(path: str) -> bytes:
    from attnspec.codegen.plan import plan as make_plan
    from attnspec.codegen.render import render
    from attnspec.dsl.analysis import analyze

    spec = read_spec(path)
    facts = analyze(spec)
    plan = make_plan(spec, facts)
    reasons = [f"{stage.name}: {stage.why}" for stage in plan.uncovered]
    source = render(spec, facts, plan) if plan.fused else None
    return json.dumps([spec.name, source, "; ".join(reasons)]).encode()


def _compile(
    spec: Spec,
    source: str,
    output: Path,
    targets: tuple[str, ...],
    dtypes: tuple[str, ...],
    head_dims: tuple[int, ...],
) -> list[Built]:
    """Compile every kernel of a module and leave binaries and reports in `output`."""
    from attnspec.runtime import aot
    from attnspec.runtime.cache import load_module

    module = load_module(cache_key(spec.text, {}), lambda: source, spec.name)
    reports: list[Built] = []
    for built, binary in aot.build(spec, module, targets, dtypes, head_dims):
        _write(output, aot.files(built, binary))
        reports.append(built)
    return reports


def _compile_for_cpu(spec: Spec, source: str) -> None:
    """Compile the passes of a module that are there in C++, into the cache."""
    from attnspec.runtime.cache import load_module
    from attnspec.runtime.native_build import compiler, library

    if compiler() is None:
        raise AttnError("target cpu: expected a C++ compiler, found none (its path may be in CXX)")
    module = load_module(cache_key(spec.text, {}), lambda: source, spec.name)
    passes = [pairwise.native for pairwise, _ in module.PASSES]
    made = [library(text, build=True) for text in passes if text]
    click.echo(f"{spec.name}: {len(made)} of {len(passes)} passes compiled for this CPU")


def _write(output: Path, files: Mapping[str, bytes]) -> bool:
    """Whether anything of this was not there."""
    try:
        return update_directory(output, files)
    except OSError as error:
        raise AttnError(f"{output} cannot be written: {error}") from None


def _print(reports: list[Built]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("spec", "kernel", "target", "dtype"):
        table.add_column(title, no_wrap=True)
    for title in ("dim", "tile", "warps", "stages", "registers", "spills", "shared", "wgmma"):
        table.add_column(title, justify="right", no_wrap=True)
    for r in reports:
        tile = f"{r.block_m}x{r.block_n}"
        numbers = (r.head_dim, tile, r.warps, r.stages, r.registers, r.spills, r.shared, r.wgmma)
        table.add_row(r.spec, r.phase, r.target, r.dtype, *map(str, numbers))
    Console(highlight=False, width=120).print(table)
