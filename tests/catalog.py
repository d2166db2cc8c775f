"""The catalog of mechanisms: which spec covers a row, how it is lowered, and what holds it.

    python -m tests.catalog docs/catalog.md [all | NAME...]

writes the page, after measuring specs on the CPU: the named ones, or those without an error on the
page. A test writes it too, with the errors that stand there, and compares.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.specs.test_library import FAMILIES
from tests.specs.test_wrong_readings import WRONG

from attnspec.codegen import library
from attnspec.codegen.commands.listing import Row, describe
from attnspec.runtime.verify import verify

PAGE = Path(__file__).parent.parent / "docs" / "catalog.md"
REASONS = Path(__file__).parent / "catalog_reasons.tsv"
CASES = 5
SEED = 0
UNMEASURED = "–"
_HEAD = """# Catalog

Made by `make catalog`. The rows are those of a catalog of mechanisms that were found in papers; a
spec names the rows that it covers. Where a paper leaves the formula open, or words and code
disagree, the title says that the definition is ours.

- **lowering**: `fused` stages are generated kernels, forward and backward; `host` is a spec that
  nothing but products of tokens with channels is needed for; `dense` runs by the definition.
- **test**: the module of `tests/specs` whose formula, in plain PyTorch and double precision, the
  spec is held against, gradients included; and the wrong readings that its case tells apart.
- **error**: the largest in {cases} random cases of `attnspec verify` on the CPU, in single and half
  precision, gradients included, as a share of what is allowed.
"""


@dataclass(frozen=True, slots=True)
class Without:
    """A row that no spec covers."""

    row: str
    mechanism: str
    reason: str


@cache
def specs() -> tuple[Row, ...]:
    """What `attnspec list` says of the library."""
    return tuple(describe(name) for name in library.names())


def without() -> tuple[Without, ...]:
    """The rows of the file of reasons, in its order."""
    lines = REASONS.read_text(encoding="utf-8").splitlines()
    return tuple(Without(*line.split("\t")) for line in lines[1:])


def lowering(row: Row) -> str:
    """How a spec's stages are lowered, those of the host only where there are no others."""
    whole = [stage for stage in row.stages if stage.kind != "host"]
    counts = Counter(f"dense ({s.why})" if s.lowering == "dense" else s.lowering for s in whole)
    text = ", ".join(name if n == 1 else f"{n} {name}" for name, n in counts.items()) or "host"
    return text if row.backward or "dense" in text else f"{text}, no gradient"


@cache
def tests() -> Mapping[str, str]:
    """The test that holds a spec, by its name."""
    told: dict[str, list[str]] = {}
    for name, wrong in WRONG:
        told.setdefault(name, []).append(f"`{wrong.__name__}`")
    found = {}
    for family in FAMILIES:
        module = family.__name__.rpartition(".")[2]
        for name in family.CASES:
            found[name] = "; not ".join([f"`{module}`", *told.get(name, [])])
    return found


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join([_line(titles), _line("---" for _ in titles), *map(_line, rows)])


def page(errors: Mapping[str, str]) -> str:
    """The whole page; `errors` are the largest ones by spec."""

    def cells(spec: Row) -> tuple[str, ...]:
        how = lowering(spec)
        error = errors.get(spec.name, UNMEASURED) if "fused" in how else UNMEASURED
        return spec.title, f"`{spec.name}`", how, tests()[spec.name], error

    covered = sorted((row, *cells(spec)) for spec in specs() for row in spec.catalog)
    others = [cells(spec) for spec in specs() if not spec.catalog]
    missing = sorted((x.row, x.mechanism, x.reason) for x in without())
    titles = ("mechanism", "spec", "lowering", "test", "error")
    rows = len({row for row, *_ in covered})
    parts = [
        _HEAD.format(cases=CASES),
        f"## {rows} rows with a spec\n",
        _table(("row", *titles), covered),
        f"\n## {len(missing)} rows without\n",
        _table(("row", "mechanism", "why not"), missing),
        "\n## Specs beyond the catalog\n",
        _table(titles, others),
    ]
    return "\n".join(parts) + "\n"


def recorded(text: str) -> dict[str, str]:
    """The errors that stand on a page, by spec."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count("|") > 5]
    named = ((re.fullmatch(r"`(\w+)`", line[-4]), line[-1]) for line in lines)
    return {name[1]: error for name, error in named if name is not None}


def measured(name: str) -> str:
    """The largest error of a spec in random cases, as a share of what is allowed."""
    report = verify(name, cases=CASES, seed=SEED, backend="cpu")
    if not report.ok:
        print(report, flush=True)
    return f"{report.largest:.2f}" if report.cases else UNMEASURED


def main() -> None:
    """Write the page that is named, with the errors of some specs, or of all, measured."""
    path, asked = Path(sys.argv[1]), sys.argv[2:]
    errors = recorded(path.read_text(encoding="utf-8")) if path.exists() else {}
    fused = [spec.name for spec in specs() if "fused" in lowering(spec)]
    new = [name for name in fused if errors.get(name, UNMEASURED) == UNMEASURED]
    for name in fused if asked == ["all"] else asked or new:
        errors[name] = measured(name)
        print(name, errors[name], flush=True)
    path.write_text(page(errors), encoding="utf-8")


if __name__ == "__main__":
    main()
