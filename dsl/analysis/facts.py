"""Facts of a checked spec, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from attnspec.dsl.analysis import boxes, derivative, domain, index_sets, relations, score, separable
from attnspec.dsl.analysis import rows as rows_of
from attnspec.dsl.analysis.ascending import Ranges, ranges
from attnspec.dsl.analysis.ascending import describe as describe_ranges
from attnspec.dsl.analysis.bounds import bounds, describe
from attnspec.dsl.analysis.boxes import Box
from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.patches import Patches, patches
from attnspec.dsl.analysis.patches import describe as describe_patches
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.runs import Bounds
from attnspec.dsl.ast import Spec
from attnspec.dsl.check_prover import Prover


@dataclass(frozen=True, slots=True)
class Facts:
    """What is proved of a spec. `rows` bounds the keys of a tile of queries, `columns` the
    queries of a tile of keys, over the tile's first and last position `lo` and `hi`; `patches`
    does so on a grid, where compact tiles pay. Where bounds over positions do not say it all,
    `ranges` do so over ascending inputs, or `blocks` say which tiles hold pairs."""

    rows: Bounds
    columns: Bounds
    patches: Patches | None
    ranges: Ranges | None
    blocks: Box | None
    facts: tuple[Fact, ...]


def analyze(spec: Spec) -> Facts:
    """The facts of a spec: each analysis describes its own."""
    mask = None if spec.mask is None else coordinates(inline(spec, spec.mask), spec)
    prover = Prover(spec)
    rows, columns = bounds(mask, "j", "i", prover), bounds(mask, "i", "j", prover)
    grid = patches(spec, prover)
    searched = None if grid is not None else ranges(spec, mask, prover)
    known = grid is not None or searched is not None
    lists = None if known else boxes.blocks(spec, mask, (rows, columns))
    found = (
        *describe(mask, rows, columns),
        *describe_patches(grid),
        *describe_ranges(searched),
        *boxes.describe(lists),
        *rows_of.describe(spec),
        *relations.describe(spec),
        *score.describe(spec),
        *derivative.describe(spec),
        *index_sets.describe(spec),
        *separable.describe(spec),
        *domain.describe(spec),
    )
    return Facts(rows, columns, grid, searched, lists, found)
