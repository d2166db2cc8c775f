"""Pictures of specs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnspec.codegen import library
from attnspec.dsl.ast import Spec
from attnspec.dsl.check import check
from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.parse import parse
from attnspec.runtime.plot import draw, panels, tiles


def read(text_or_name: str) -> Spec:
    text = text_or_name
    if "\n" not in text:
        text = library.find(text)[0]
    return check(parse(text))[0]


def test_the_mask_is_drawn_as_it_is() -> None:
    drawn = dict(panels(read("attention x\nmask j <= i and i - j < 3\n"), 7))
    i, j = torch.arange(7)[:, None], torch.arange(7)
    assert torch.equal(drawn["mask"], ((j <= i) & (i - j < 3)).double())
    assert torch.allclose(drawn["weight"].sum(1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(drawn["weight"] > 0, drawn["mask"] > 0)


def test_the_tiles_of_the_mask() -> None:
    drawn = list(panels(read("attention x\nmask j <= i\n"), 40))
    assert [title for title, _ in drawn] == [
        "mask",
        "tiles of 4 x 4: 45 full, 10 partial, 45 empty",
        "weight",
    ]
    mask, kinds = drawn[0][1], drawn[1][1]
    assert kinds.shape == mask.shape
    below = torch.ones(10, 10).tril(-1).bool()
    assert torch.equal(kinds == 2, below.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert not ((kinds == 0) & (mask > 0)).any()


def test_a_tile_at_the_end_may_be_smaller() -> None:
    title, kinds = tiles(torch.ones(10, 7, dtype=torch.float64), 4)
    assert title == "tiles of 4 x 4: 6 full, 0 partial, 0 empty"
    assert torch.equal(kinds, torch.full((10, 7), 2.0, dtype=torch.float64))


def test_a_weight_without_normaliser_is_masked_too() -> None:
    drawn = dict(panels(read("attention x\nmask j <= i\nweight = sigmoid(score)\n"), 5))
    assert torch.equal(drawn["weight"] > 0, torch.ones(5, 5).tril() > 0)


def test_a_recurrence_shows_what_a_key_does() -> None:
    text = "attention x\nstate S[d, e]\nstep S[t] = S[t - 1] + outer(k[t], v[t])\n"
    (drawn,) = panels(read(text + "output = q[t] @ S[t]\n"), 6)
    assert torch.equal(drawn[1].triu(1), torch.zeros(6, 6, dtype=torch.float64))
    assert drawn[1].tril().count_nonzero() == 21


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_spec_gives_the_same_file(tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{n}{suffix}" for n in range(2)]
    for file in files:
        draw(read("alibi"), file, 16)
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert len(one) > 2000


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(AttnError, match="cannot be written"):
        draw(read("causal"), tmp_path / "no" / "such.png", 8)


def test_nothing_to_draw(tmp_path: Path) -> None:
    spec = read("attention x\noutput = v[i]\n")
    with pytest.raises(AttnError, match="neither a mask nor weights"):
        draw(spec, tmp_path / "x.png", 8)


@pytest.mark.parametrize("name", library.names())
def test_every_library_spec_can_be_drawn(name: str) -> None:
    for title, values in panels(read(name), 24):
        assert values.dim() == 2, title
        assert values.isfinite().all(), title
