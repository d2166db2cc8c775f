"""What is proved of softmax logits, and what is left alone because it is not."""

from __future__ import annotations

import pytest

from attnspec.dsl.analysis.inlining import inline
from attnspec.dsl.analysis.positions import coordinates
from attnspec.dsl.analysis.score import Score, score_of
from attnspec.dsl.ast import Normalize, walk
from attnspec.dsl.check import check
from attnspec.dsl.formula import formula
from attnspec.dsl.parse import parse

DOT = "dot(q[i], k[j]) / sqrt(D)"


def score(text: str, sink: bool = False) -> Score:
    spec, _ = check(parse(f"attention a\n{text}\n", "a.attn"))
    assert spec.output is not None
    nodes = walk(inline(spec, spec.output))
    (found,) = {n for n in nodes if isinstance(n, Normalize) and n.op == "softmax"}
    return score_of(spec, coordinates(found.body, spec), sink)


@pytest.mark.parametrize(
    ("declared", "added", "gone"),
    [
        ("input r[b, i]", "+ r[i]", ["r[i]"]),
        ("input r[b, i]", "- 2 * r[i]", ["-(2 * r[i])"]),
        ("param s[h] = 1", "- s * (i - j)", ["i - j"]),
        ("param s[h] = 1", "- (j - i) / s", None),  # a divisor that may be 0 is another matter
        ("param s[h] = 1", "+ s * (2 * j - 3 * i)", ["2 * j - 3 * i"]),
        ("param s[h] = 1", "- s * abs(i - j)", []),
        ("param s[h] = 1", "- s * (i - j) ** 2", []),
        ("input s[b, i]", "- s[i] * (i - j)", []),  # another slope a row, but none a head
        ("input c[b, n]", "+ c[i] - c[j]", []),  # both may be large and cancel
    ],
)
def test_what_a_row_does_not_see(declared: str, added: str, gone: list[str] | None) -> None:
    if gone is None:
        declared, gone = "param s[h] = 1 where s > 0", ["j - i"]
    found = score(f"{declared}\nscore = {DOT} {added}")
    shown = [formula(t) for t in found.constant] + [formula(d.of) for d in found.distances]
    assert shown == gone


def test_a_sink_sees_what_is_the_same_for_a_row() -> None:
    found = score(f"param s[h] = 1\nscore = {DOT} - s * (i - j)", sink=True)
    assert found == Score()


@pytest.mark.parametrize(
    ("declared", "logit", "known"),
    [
        ("", DOT, True),
        ("", "3 * dot(q[i], k[j])", True),
        ("", "-3 * dot(q[i], k[j])", False),
        ("param s[h] = 1 where s > 0", "s * dot(q[i], k[j])", True),
        ("param s[h] = 1", "s * dot(q[i], k[j])", False),
        ("input r[b, i] where r > 0", "r[i] * dot(q[i], k[j])", False),
        ("", f"log(N) * {DOT}", False),  # 0 for one key
        ("input r[b, i]", f"{DOT} + r[i]", True),
        ("input c[b, j]", f"{DOT} + c[j]", False),
        ("", "dot(q[i], k[j]) ** 2", False),
    ],
)
def test_the_factor_of_a_dot_product_is_positive(declared: str, logit: str, known: bool) -> None:
    assert (score(f"{declared}\nscore = {logit}").factor is not None) == known


@pytest.mark.parametrize(
    ("declared", "logit", "ends", "gentle"),
    [
        ("", f"20 * tanh({DOT})", ("-20", "20"), True),
        ("input c: float = 5 where c > 0", f"c * tanh({DOT})", ("-c", "c"), True),
        ("input c: float = 5", f"c * tanh({DOT})", None, False),
        ("param c = 5 where c > 0", f"c * tanh({DOT})", None, False),  # known on the device alone
        ("", f"sigmoid({DOT}) / 2", ("0.0 / 2", "1.0 / 2"), False),
        ("", f"1 - sin({DOT})", ("1 - 1.0", "1 - -1.0"), False),
        ("", f"clamp({DOT}, -3, 4)", ("-3", "4"), False),
        ("", "7 * dot(normalize(q[i]), normalize(k[j]))", ("-7", "7"), False),
        ("", "7 * dot(normalize(q[i]), k[j])", None, False),
        ("input r[b, i]", f"tanh({DOT}) + r[i]", None, False),
        ("", f"sin(1000 * tanh({DOT}))", ("-1.0", "1.0"), False),  # which a coarse tanh would spoil
    ],
)
def test_numbers_around_a_logit(
    declared: str, logit: str, ends: tuple[str, str] | None, gentle: bool
) -> None:
    found = score(f"{declared}\nscore = {logit}")
    shown = None if found.range is None else tuple(map(formula, found.range))
    assert (shown, found.gentle) == (ends, gentle)
