"""Signatures of checked specs."""

from __future__ import annotations

import pytest
from tests.runtime.conftest import spec_of

from attnspec.runtime.signature import Argument, Grid
from attnspec.runtime.signature_of import signature


def test_operands_come_first_and_unused_ones_not_at_all() -> None:
    called = signature(
        spec_of("param w[h, j]\ninput x[b, n]: int\nweight = where(x[j] > 0, w[j], 0)")
    )
    assert [(a.name, a.form, a.axes) for a in called.arguments] == [
        ("v", "value", ("b", "h", "j", "e")),
        ("w", "param", ("h", "j")),
        ("x", "input", ("b", "j")),
    ]
    assert called.output
    assert called.returns == ()


def test_defaults() -> None:
    called = signature(
        spec_of(
            "param a[h] = -1\nparam z[h] = exp(-h)\nparam c[2] = [1, 2]\ninput w: int = 3\n"
            "input tau: float = 0.5 where tau > 0\nmask i - j < w\n"
            "score = dot(q[i], k[j]) * a * z / tau + c[0] * c[1]"
        )
    )
    more = {a.name: a for a in called.arguments[3:]}
    assert (more["a"].default, more["a"].required) == (-1, False)
    assert (more["z"].default, more["z"].computed, more["z"].required) == (None, True, False)
    assert more["c"].default == (1, 2)
    assert more["w"] == Argument("w", "input", (), "int", default=3)
    assert more["tau"].default == 0.5
    assert called.arguments[0].required


def test_sizes_that_follow_from_others() -> None:
    called = signature(
        spec_of(
            "axis r = D // 2\naxis s = 2 * 3 + 1\nblocks c = j // 4\nindex u = j\n"
            "param w[r, s] = 0\nlet m[c] = mean(j, v[j], where=j in c)\n"
            "output = sum(c, m[c]) + sum(u, v[u]) * sum(r, s, w[r, s])"
        )
    )
    sizes = dict(called.sizes)
    assert sizes["r"] == ("floordiv", "d", 2)
    assert sizes["s"] == 7
    assert sizes["c"] == ("blocks", "j", 4)
    assert sizes["u"] == "j"


def test_grids() -> None:
    shared = signature(spec_of("grid y, x\nmask i.y == j.y"))
    assert shared.grids == (Grid("i", ("y", "x"), ("GY", "GX")),)
    assert shared.shared_grid
    split = signature(spec_of("grid i: y\ngrid j: y\nmask i.y == j.y"))
    assert split.grids == (Grid("i", ("y",), ("GY_i",)), Grid("j", ("y",), ("GY_j",)))


def test_recurrences_are_square_unless_over_another_axis() -> None:
    step = "state S[d, e]\nstep S[t] = S[t - 1] + outer(k[t], v[t])\noutput = q[t] @ S"
    assert signature(spec_of(step)).square
    assert signature(spec_of("input a[b, t]\noutput = none\nreturn r[b, t] = a[t]")).square
    sinkhorn = "axis s = 2\nstate f[i] over s\nstep f[s] = f[s - 1] - 1\nweight = exp(f[i])"
    assert not signature(spec_of(sinkhorn)).square


def test_what_is_read_at_the_other_side() -> None:
    text = "input x[b, n]\nlet c[n] = cumsum(n, x[n])\nscore = dot(q[i], k[j]) + c[i] - c[j]"
    called = signature(spec_of(text))
    assert called.across == (("c", "j", "i"),)
    pair = signature(spec_of("input x[b, n]: int\nmask x[i] == x[j]"))
    assert pair.across == (("x", "j", "i"),)
    assert pair.argument("x").paired


def test_constants_fix_sizes() -> None:
    called = signature(spec_of("const span[h]: int = [4, 8]\nmask i - j < span"))
    assert called.tables == (("span", ("h",), (2,)),)
    assert [a.name for a in called.arguments] == ["q", "k", "v"]


def test_what_is_right_where_positions_start_at_zero() -> None:
    text = """
        input x[b, i]
        input pick[b, i]: int where 0 <= pick < N
        let mean_x[i] = mean(j, x[i] + dot(q[i], k[j]))
        score = dot(q[i], k[pick[i]]) + mean_x[i - i % 2] + x[i - 1, pad=0]
    """
    assert signature(spec_of(text)).anchored == (
        ("mean_x[i - i % 2]", "i"), ("k[pick[i]]", "j"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("input x[b, n]\nscore = x[i] - x[j]", ""),
        ("axis m = 4\nrequire size(m) <= N\nscore = sum(m, dot(q[i], k[m]))", "j"),
        ("require M <= N\nscore = dot(q[i], k[j]) * dot(q[i], k[i // 2])", "ij"),
        ("score = dot(q[i], k[j]) * dot(q[i], k[min(i, N - 1)])", "j"),
        ("axis m = 16\ninput x[m]\nrequire M <= 16\nscore = dot(q[i], k[j]) * x[i]", "i"),
        ("axis m = 16\ninput x[m]\nscore = dot(q[i], k[j]) * x[i % 16]", ""),
        ("score = dot(q[i], k[j]) / (N + 1 - i)\nrequire M <= N", "i"),
        ("score = dot(q[i], k[j]) / (abs(i - j) + 1)", ""),
        ("blocks c = j // 4\ninput x[c]\nscore = dot(q[i], k[j]) * x[j // 4]", ""),
        ("mask j <= i\naxis m = 8\ninput x[m]\nscore = x[min(i - j, 7)]", ""),
    ],
)
def test_what_another_start_would_change(text: str, sides: str) -> None:
    assert "".join(side for _, side in signature(spec_of(text)).anchored) == sides


@pytest.mark.parametrize(
    ("at", "anchored"), [("t", False), ("t - 1", False), ("t + 1", True), ("t // 2", True)]
)
def test_states_at_other_steps_than_the_one_before(at: str, anchored: bool) -> None:
    step = "state S[d, e]\nstep S[t] = S[t - 1] + outer(k[t], v[t])\noutput = q[t] @ S[{}]"
    found = signature(spec_of(step.format(at))).anchored
    assert [side for _, side in found] == (["i", "j"] if anchored else [])


def test_states_at_other_tokens() -> None:
    step = "axis s = 3\nstate f[i] over s\nstep f[s] = -logsumexp(j, score + f[s - 1])\n"
    assert signature(spec_of(f"{step}weight = exp(score + f[i])")).anchored == ()
    found = signature(spec_of(f"{step}weight = exp(score + f[i // 2])"))
    assert found.anchored == (("f[i // 2]", "i"),)
