"""Where a dense evaluation goes wrong easily: NaN, empties, ties, branches, low precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.runtime.conftest import agree, random_leaf, run, spec_of
from torch import Tensor

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime.bind import bind
from attnspec.runtime.facts_check import facts_hold
from attnspec.runtime.reference import evaluate, initial, reference_lse
from attnspec.runtime.signature_of import signature

B, H, N, D = 2, 2, 6, 4


def qkv() -> dict[str, Tensor]:
    return {name: random_leaf(B, H, N, D) for name in "qkv"}


def poisoned() -> dict[str, Tensor]:
    x = qkv()
    with torch.no_grad():
        x["k"][:, :, 3] = math.nan
        x["v"][:, :, 3] = math.inf
    return x


@pytest.mark.parametrize(
    "weight", ["softmax(score)", "relu(score)", "sparsemax(score)", "sigmoid(score) * exp(score)"]
)
def test_what_is_masked_reaches_nothing(weight: str) -> None:
    text = f"mask j <= i and j != 3\nweight = {weight}"
    x = poisoned()
    clean = {name: value.detach().clone() for name, value in x.items()}
    clean["k"][:, :, 3] = 0.0
    clean["v"][:, :, 3] = 0.0
    y = {name: value.requires_grad_() for name, value in clean.items()}
    got, want = run(text, **x).output, run(text, **y).output
    assert got is not None
    assert want is not None
    torch.testing.assert_close(got, want)
    back = torch.randn_like(got)
    ours = torch.autograd.grad(got, list(x.values()), back)
    theirs = torch.autograd.grad(want, list(y.values()), back)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_used_reaches_the_output() -> None:
    output = run("mask j <= i", **poisoned()).output
    assert output is not None
    assert output[:, :, :3].isfinite().all()
    assert output[:, :, 3:].isnan().all()


@pytest.mark.parametrize(
    "expression",
    [
        "where(x[i] > 0, log(x[i]), 0)",
        "where(x[i] > 0, sqrt(x[i]) * 3, x[i])",
        "where(x[i] != 0, 1 / x[i], 0) + x[i]",
        "where(x[i] > 0, exp(log(x[i]) / 2) + log1p(x[i] - 1), -x[i])",
        "where(x[i] > 0, (x[i] + 0.0) ** 0.5, 2 * x[i])",
        "where(x[i] > 0, sum(j, log(x[i]) * y[j]), 0)",
    ],
)
def test_the_branch_not_taken_gives_no_nan(expression: str) -> None:
    x = torch.tensor([[0.5, 0.0, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y = random_leaf(1, 4)
    used = {"y": y} if "y[" in expression else {}
    declared = "input y[b, j]\n" if used else ""
    text = f"input x[b, i]\n{declared}output = none\nreturn r[b, i] = {expression}"
    value = run(text, x=x, **used).extras["r"]
    [grad] = torch.autograd.grad(value.sum(), x)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    step = 1e-6
    for at in (0, 3):
        moved = x.detach().clone()
        moved[0, at] += step
        change = (run(text, x=moved, **used).extras["r"].sum() - value.sum()).detach()
        assert float(grad[0, at]) == pytest.approx(float(change) / step, rel=1e-4)


def test_empty_reductions() -> None:
    x = random_leaf(B, N)
    names = ["sum", "mean", "prod", "logsumexp", "amax", "amin"]
    returns = "".join(f"return {n}0[b] = {n}(j, x[j], where=x[j] > 1e9)\n" for n in names)
    extras = run(
        "input x[b, j]\noutput = none\n"
        + returns
        + "return any0[b] = any(j, x[j] > 0, where=x[j] > 1e9)\n"
        + "return all0[b] = all(j, x[j] > 0, where=x[j] > 1e9)\n"
        + "return arg0[b] = argmax(j, x[j], where=x[j] > 1e9)\n"
        + "return soft0[b, j] = softmax(x[j], over=j, where=x[j] > 1e9)\n"
        + "return sparse0[b, j] = sparsemax(x[j], over=j, where=x[j] > 1e9)\n",
        x=x,
    ).extras
    want = {"sum": 0, "mean": 0, "prod": 1, "logsumexp": -math.inf, "amax": -math.inf}
    want |= {"amin": math.inf, "any": False, "all": True, "arg": 0, "soft": 0, "sparse": 0}
    total = torch.zeros((), dtype=torch.float64)
    for name, value in want.items():
        assert (extras[f"{name}0"] == value).all(), name
        if extras[f"{name}0"].is_floating_point():
            total = total + torch.where(extras[f"{name}0"].isfinite(), extras[f"{name}0"], 0).sum()
    [grad] = torch.autograd.grad(total, x)
    assert not grad.any()


def test_what_is_not_a_number_is_the_largest() -> None:
    x = torch.tensor([[3.0, math.nan, math.inf, math.nan]])
    returns = "return a[b] = argmax(j, x[j])\nreturn top[b] = amax(j, x[j])\n"
    returns += "return rest[b] = argmax(j, x[j], where=j > 1)"
    extras = run(f"input x[b, j]\noutput = none\n{returns}", x=x).extras
    assert extras["a"].tolist() == [1]
    assert extras["rest"].tolist() == [3]
    assert extras["top"].isnan().all()


def test_the_first_of_equal_numbers_gets_the_gradient() -> None:
    x = torch.tensor([[[3.0, 5.0], [5.0, 5.0]]], requires_grad=True)
    axes = "axis c\naxis g\ninput x[b, c, g]\noutput = none\n"
    returns = "return top[b] = amax(c, g, x)"
    extras = run(f"{axes}{returns}", x=x).extras
    [top] = torch.autograd.grad(extras["top"].sum(), x)
    assert top.tolist() == [[[0, 1], [0, 0]]]


def test_ties_go_to_the_lower_index() -> None:
    x = torch.tensor([[3.0, 5.0, 5.0, 1.0, 5.0, 3.0]])
    extras = run(
        "input x[b, j]\noutput = none\nreturn r[b, j] = rank(j, x[j])\n"
        "return w[b, j] = rank(j, x[j], where=j != 1)\nreturn a[b] = argmax(j, x[j])\n"
        "return top[b, j] = topk(j, x[j], 2)\nreturn last[b] = argmax(j, x[j], where=j > 2)",
        x=x,
        k_start=10,
    ).extras
    assert extras["r"].tolist() == [[3, 0, 1, 5, 2, 4]]
    assert extras["a"].tolist() == [11]
    assert extras["top"].tolist() == [[False, True, True, False, False, False]]
    # Positions count from k_start, so every one is above 2 and none is 1.
    assert extras["last"].tolist() == [11]
    assert extras["w"].tolist() == extras["r"].tolist()
    excluded = run(
        "input x[b, j]\noutput = none\nreturn w[b, j] = rank(j, x[j], where=j != 1)", x=x
    ).extras["w"]
    assert excluded.tolist() == [[2, 6, 0, 4, 1, 3]]


def test_a_score_of_minus_infinity_is_no_mask_but_weighs_nothing() -> None:
    bias = torch.zeros(N, N, dtype=torch.float64)
    bias[0] = -math.inf
    bias[1, 2] = -math.inf
    x = qkv()
    outputs = run("input bias[i, j]\nscore = dot(q[i], k[j]) + bias[i, j]", **x, bias=bias)
    assert outputs.output is not None
    assert not outputs.output[:, :, 0].any()
    grads = torch.autograd.grad(outputs.output.sum(), list(x.values()), retain_graph=True)
    assert all(g.isfinite().all() for g in grads)
    score = (x["q"] @ x["k"].mT + bias)[:, :, 1:]
    agree(outputs.output[:, :, 1:], score.softmax(-1) @ x["v"], list(x.values()))


def test_large_scores_do_not_overflow() -> None:
    x = {name: value.detach() * 1e3 for name, value in qkv().items()}
    outputs = run("mask j <= i\nscore = dot(q[i], k[j])", **x)
    assert outputs.output is not None
    score = (x["q"] @ x["k"].mT).masked_fill(~torch.ones(N, N).tril().bool(), -math.inf)
    torch.testing.assert_close(outputs.output, score.softmax(-1) @ x["v"])
    torch.testing.assert_close(outputs.extras["lse"], score.logsumexp(-1))


FUNCTIONS = {
    "abs": torch.abs,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "gelu": F.gelu,
    "erf": torch.erf,
    "sign": torch.sign,
}
POSITIVE = {
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "log": torch.log,
    "log2": torch.log2,
    "log1p": torch.log1p,
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *POSITIVE])
def test_scalar_functions(name: str) -> None:
    x = random_leaf(B, N)
    fact = ""
    if name in POSITIVE:
        x = x.detach().abs().add(0.1).requires_grad_()
        fact = " where x > 0"
    value = run(f"input x[b, i]{fact}\noutput = none\nreturn r[b, i] = {name}(x[i])", x=x).extras[
        "r"
    ]
    agree(value, (FUNCTIONS | POSITIVE)[name](x), [x])


def test_operators_are_python_s() -> None:
    x = torch.tensor([[-7, -3, 0, 4, 9]])
    y = torch.tensor([[3, 2, 5, 4, 2]])
    z = torch.tensor([[1.5, 2.5, 0.5, 2.0, 0.7]], dtype=torch.float64)
    extras = run(
        "input x[b, i]: int\ninput y[b, i]: int where y > 0\ninput z[b, i] where z > 0\n"
        "output = none\nreturn f[b, i] = x[i] // y[i]\nreturn fn[b, i] = x[i] // (-y[i])\n"
        "return m[b, i] = x[i] % y[i]\nreturn mn[b, i] = x[i] % (-y[i])\n"
        "return ratio[b, i] = x[i] / y[i]\nreturn zf[b, i] = x[i] // z[i]\n"
        "return zm[b, i] = x[i] % (-z[i])\nreturn p[b, i] = x[i] ** 3 - 2.0 ** -1\n"
        "return c[b, i] = clamp(x[i], -3, 3) + min(x[i], y[i], 1) * max(x[i], y[i])\n"
        "return up[b, i] = ceil(z[i]) - floor(z[i])",
        x=x,
        y=y,
        z=z,
    ).extras
    xs, ys, zs = x[0].tolist(), y[0].tolist(), z[0].tolist()
    pairs, mixed = list(zip(xs, ys, strict=True)), list(zip(xs, zs, strict=True))
    assert extras["f"][0].tolist() == [a // b for a, b in pairs]
    assert extras["fn"][0].tolist() == [a // -b for a, b in pairs]
    assert extras["m"][0].tolist() == [a % b for a, b in pairs]
    assert extras["mn"][0].tolist() == [a % -b for a, b in pairs]
    assert extras["ratio"][0].tolist() == [a / b for a, b in pairs]
    assert extras["zf"][0].tolist() == pytest.approx([a // b for a, b in mixed])
    assert extras["zm"][0].tolist() == pytest.approx([a % -b for a, b in mixed])
    assert extras["p"][0].tolist() == [a**3 - 0.5 for a in xs]
    want = [min(max(a, -3), 3) + min(a, b, 1) * max(a, b) for a, b in pairs]
    assert extras["c"][0].tolist() == want
    assert extras["up"][0].tolist() == [math.ceil(a) - math.floor(a) for a in zs]


def test_no_gradient_through_stopgrad() -> None:
    x = random_leaf(B, N)
    value = run("input x[b, i]\noutput = none\nreturn r[b, i] = stopgrad(x[i]) * x[i]", x=x)
    agree(value.extras["r"], x.detach() * x, [x])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_follows_the_definition(dtype: torch.dtype) -> None:
    spec = spec_of(
        "attention a\nparam s[h] = 2.0 ** (-(h + 1))\ninput reach: float = 1.5\n"
        "mask j <= i and i - j < 200 * reach\n"
        "score = dot(rmsnorm(q[i]), k[j]) / sqrt(D) - s * (i - j) / 100\ngate = sigmoid(v[i])\n"
    )
    x = [torch.randn(1, 2, 400, 8).to(dtype).requires_grad_() for _ in "qkv"]
    bound = bind(signature(spec), x, {}, lambda n, b: initial(spec, n, b))
    low, exact = evaluate(spec, bound, dtype), evaluate(spec, bound)
    assert low.output is not None
    assert exact.output is not None
    assert low.output.dtype is dtype
    assert low.extras["lse"].dtype is dtype
    assert exact.output.dtype is torch.float64
    ulp = torch.finfo(dtype).eps
    # A position rounded to the dtype would move the edge of the window, an error of order 1.
    assert float((low.output - exact.output).detach().abs().max()) < 60 * ulp
    low.output.sum().backward()
    assert all(t.grad is not None and t.grad.dtype is dtype for t in x)


def test_lse_only_of_a_softmax() -> None:
    spec = spec_of("weight = sigmoid(score)")
    bound = bind(signature(spec), list(qkv().values()), {})
    assert evaluate(spec, bound).extras == {}
    with pytest.raises(ValueError, match="the weight of a is not a softmax over j"):
        reference_lse(spec, bound)


def test_lse_includes_the_sink() -> None:
    x, s = qkv(), random_leaf(H)
    spec = spec_of("param s[h] = 0\nmask j < i\nweight = softmax(score, sink=s)")
    bound = bind(signature(spec), (), {**x, "s": s})
    score = (x["q"] @ x["k"].mT / 2).masked_fill(torch.ones(N, N).triu().bool(), -math.inf)
    column = s[None, :, None, None].expand(B, H, N, 1)
    want = torch.cat([score, column], -1).logsumexp(-1)
    agree(reference_lse(spec, bound), want, [*x.values(), s])


FACTS = (
    "input w: int = 3 where 0 < w\ninput a[b, n] where 0 < a <= 1\nrequire N % 2 == 0\n"
    "require i < 100\nmask i - w <= j <= i\nscore = dot(q[i], k[j]) * a[i] * a[j]"
)


def facts(**changes: object) -> None:
    spec = spec_of(FACTS)
    a = torch.full((B, N), 0.5, dtype=torch.float64)
    arguments = {**qkv(), "a": a, **changes}
    facts_hold(spec, bind(signature(spec), (), arguments))


def test_facts_at_the_call() -> None:
    facts()
    nan = torch.full((B, N), math.nan, dtype=torch.float64)
    facts(a=nan)
    high = torch.full((B, N), 0.5, dtype=torch.float64)
    high[1, 4] = 1.5
    with pytest.raises(AttnError, match=r"^a: argument `w`: expected `0 < w`, got -2$"):
        facts(w=-2)
    with pytest.raises(AttnError, match=r"argument `a`: expected .*a <= 1.*, got 1.5 at \[1, 4\]$"):
        facts(a=high)
    with pytest.raises(AttnError, match=r"argument `a`: expected .*a <= 1.*, got 1.5 at \[1, 4\]$"):
        facts(a=(high, torch.full((B, N), 0.5, dtype=torch.float64)))
    with pytest.raises(AttnError, match=r"^a: requires `i < 100`, false at i = 100$"):
        facts(q_start=98, k_start=98)
    short = {name: value[:, :, :5] for name, value in qkv().items()}
    with pytest.raises(AttnError, match=r"^a: requires `N % 2 == 0`, false$"):
        facts(**short, a=torch.full((B, 5), 0.5, dtype=torch.float64))


def test_a_mask_may_bring_the_batch_into_a_definition() -> None:
    x = qkv()
    seen = torch.rand(B, N) < 0.6
    output = run(
        "input seen[b, j]: bool\nmask seen[j]\nlet count[i] = max(1, sum(j, 1))\n"
        "weight = relu(score) / count",
        **x,
        seen=seen,
    ).output
    assert output is not None
    count = seen.sum(-1).clamp(min=1)[:, None, None, None]
    weight = F.relu(x["q"] @ x["k"].mT / 2) * seen[:, None, None] / count
    agree(output, weight @ x["v"], list(x.values()))


def test_hundreds_of_definitions_on_one_another() -> None:
    lines = [f"let a{n}[i] = a{n - 1} + 0.5" for n in range(1, 401)]
    x = qkv()
    output = run(
        "let a0[i] = i\n" + "\n".join(lines) + "\nweight = softmax(score) * a400[i]", **x
    ).output
    assert output is not None
    rows = (torch.arange(N) + 200.0)[:, None]
    plain = F.scaled_dot_product_attention(x["q"], x["k"], x["v"])
    agree(output, rows * plain, list(x.values()))
