"""Rows of the mask: does every query have a key?"""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.ast import Spec
from attnspec.dsl.build import index, lit
from attnspec.dsl.check_prover import Prover
from attnspec.dsl.check_rows import every_row_has_a_pair, takes_part


def describe(spec: Spec) -> Iterator[Fact]:
    """The witness of each row, where there is one."""
    if spec.mask is None or spec.token == "t":
        return
    prover = Prover(spec)
    always = every_row_has_a_pair(prover)
    for witness in ("0", "i"):
        if takes_part(prover, lit(0) if witness == "0" else index("i")):
            yield Fact(
                "row not empty",
                "every query has a pair" if always else "a query at a key's position has a pair",
                f"j = {witness} satisfies the mask",
                "a sum over the row is never empty: dividing by a row of positive terms is safe"
                if always
                else "in self-attention no row is empty",
            )
            return
