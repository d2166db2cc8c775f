"""The random numbers of the language."""

from __future__ import annotations

import pytest
import torch

from attnspec.runtime.random import philox, uniform

# Known answers of Philox 4x32-10, published with Random123.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        -1,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter: tuple[int, ...], key: int, words: tuple[int, ...]) -> None:
    got = philox(torch.tensor(key), *(torch.tensor(c) for c in counter))
    assert tuple(int(w) for w in got) == words


def test_uniform_lies_strictly_inside_and_is_exact_in_float32() -> None:
    i, j = torch.arange(300)[:, None], torch.arange(300)
    u = uniform(torch.tensor(5), torch.tensor(0), i, j)
    assert u.shape == (300, 300)
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert torch.equal(u.float().double(), u)
    assert abs(float(u.mean()) - 0.5) < 0.005
    assert abs(float(u.var()) - 1 / 12) < 0.002
    assert float((2**23 * u - 0.5).frac().abs().max()) == 0


def test_every_part_of_the_counter_counts() -> None:
    zero, one = torch.tensor(0), torch.tensor(1)
    base = uniform(zero, zero, zero, zero)
    for at in range(4):
        parts = [one if n == at else zero for n in range(4)]
        assert uniform(parts[0], parts[1], parts[2], parts[3]) != base
    assert uniform(torch.tensor(1 << 32), zero, zero, zero) != base
