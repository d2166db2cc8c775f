"""Every example spec runs: outputs of the right shape, finite, with finite gradients."""

from __future__ import annotations

import pytest
import torch
from tests.runtime.conftest import spec_of
from torch import Tensor

from attnspec.dsl.ast import Spec
from attnspec.runtime.axes import root
from attnspec.runtime.bind import Bound
from attnspec.runtime.reference import Evaluator, Outputs, evaluate
from attnspec.runtime.sampling import sample

# Long enough to fill more than one block of 64 and every local window.
LONG = {"i": 70, "j": 70}

# These steps multiply the state by something that random keys make larger than 1.
EXPLOSIVE = {"titans_mlp", "titans_chunk", "titans", "moneta", "yaad"}

# A row without a pair has the log-sum-exp -inf, and the score's distance from it is +inf.
INFINITE = {"pointer"}


def leaves(bound: Bound) -> list[Tensor]:
    parts = [p for v in bound.tensors.values() for p in (v if isinstance(v, tuple) else (v,))]
    return [p for p in parts if p.requires_grad]


def hold(spec: Spec, bound: Bound) -> Outputs:
    """The shapes of all outputs; finite values and gradients."""
    outputs = evaluate(spec, bound)
    sizes = Evaluator(spec, bound, torch.float64).sizes
    wanted = {r.name: [sizes[root(spec, a)] for a in r.axes] for r in spec.returns}
    got = dict(outputs.extras)
    if spec.output is not None:
        assert outputs.output is not None
        got["output"] = outputs.output
        wanted["output"] = [sizes["b"], sizes["h"], sizes[spec.token], sizes[spec.channel]]
    if "lse" in got:
        wanted.setdefault("lse", list(got["lse"].shape))
        assert got["lse"].shape[:3] == (sizes["b"], sizes["h"], sizes["i"])
    assert {name: list(x.shape) for name, x in got.items()} == wanted
    floats = [x for name, x in got.items() if x.is_floating_point() and name != "lse"]
    if spec.name not in INFINITE:
        assert all(x.isfinite().all() for x in floats)
    total = sum((x[x.isfinite()].square().sum() for x in floats), torch.zeros(()))
    if total.requires_grad:
        inputs = leaves(bound)
        grads = torch.autograd.grad(total, inputs, allow_unused=True)
        assert all(g.isfinite().all() for g in grads if g is not None)
        if sizes["j"] > 1:  # the softmax of a single key is constant
            assert any(g is not None and g.any() for g in grads)
    return outputs


@pytest.mark.parametrize("seed", [0, 1])
def test_small(example: tuple[str, str], seed: int) -> None:
    spec = spec_of(example[1])
    steps = {"i": 8, "j": 8} if spec.name in EXPLOSIVE else None
    generator = torch.Generator().manual_seed(seed)
    scale = 0.3 if spec.name in EXPLOSIVE else 1.0
    bound = sample(spec, generator, steps, dtype=torch.float64, scale=scale, requires_grad=True)
    hold(spec, bound)


def test_the_masks_of_examples_are_not_trivial(examples: dict[str, str]) -> None:
    """Sampling finds inputs under which masks keep some pairs and drop some."""
    trivial = set()
    for text in examples.values():
        spec = spec_of(text)
        if spec.mask is None:
            continue
        generator = torch.Generator().manual_seed(0)
        for attempt in range(40):
            sizes = None if attempt or spec.grids else LONG
            bound = sample(spec, generator, sizes, dtype=torch.float64)
            kept = Evaluator(spec, bound, torch.float64)(spec.mask).tensor
            if kept.any() and not kept.all():
                break
        else:
            trivial.add(spec.name)
    assert trivial == set()
