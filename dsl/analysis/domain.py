"""What is safe: every index inside its tensor, every operation inside its domain."""

from __future__ import annotations

from collections.abc import Iterator

from attnspec.dsl.analysis.fact import Fact
from attnspec.dsl.ast import Spec
from attnspec.dsl.check_domain import Proof, proofs
from attnspec.dsl.formula import formula

_SHOWN = 6
_LONGEST = 60
_WORDS = {  # an index names its tensor itself
    **{op: f"{op} of {{}}" for op in ("log", "log2", "log1p", "sqrt", "rsqrt")},
    "div": "division by {}",
    "floordiv": "division by {}",
    "mod": "remainder by {}",
    "pow": "power of {}",
    "exponent": "exponent {}",
    "entmax": "entmax with alpha - 1 = {}",
}
_BY = {
    "ranges": "the ranges of positions, sizes and declared facts",
    "require": "`require`",
    "conditions": "the mask and the conditions around it",
}


def describe(spec: Spec) -> Iterator[Fact]:
    """One fact for everything that is proved never to leave its domain."""
    found = proofs(spec)
    shown = list(dict.fromkeys(map(_shown, found)))
    if not shown:
        return
    more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    by = [text for key, text in _BY.items() if any(p.by == key for p in found)]
    yield Fact(
        "domain",
        ", ".join(shown[:_SHOWN]) + more,
        f"interval and linear arithmetic on {', '.join(by)}",
        "safe on every pair: no check at run time, no guard in a kernel",
    )


def _shown(proof: Proof) -> str:
    part = formula(proof.part)
    part = part if len(part) <= _LONGEST else f"{part[:_LONGEST]} ..."
    return _WORDS.get(
        proof.op, f"{proof.op} {{}}" if " " in proof.op else f"{proof.op} of {{}}"
    ).format(part)
