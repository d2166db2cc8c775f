"""Tiles loaded by descriptors: the same numbers, and only where the copy engine can."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from attnspec.runtime import compat
from attnspec.runtime.arrange import Layout, boxed
from attnspec.runtime.tiles import INTERPRETED

ROOT = Path(__file__).parent.parent.parent
WHOLE = torch.zeros(2, 3, 40, 24, dtype=torch.bfloat16)


def test_descriptors_load_what_pointers_do() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.runtime.descriptors"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-1500:]}"


@pytest.mark.parametrize(
    "x",
    [
        WHOLE,
        WHOLE.transpose(1, 2),
        WHOLE[..., 8:],
        WHOLE[:, :, 1:],
        WHOLE[:1, :1].as_strided((1, 1, 40, 24), (1, 3, 24, 1)),  # of one batch and head
    ],
)
def test_what_the_copy_engine_reads_has_a_descriptor(x: Tensor) -> None:
    found = boxed(x, 64)
    assert found is not None
    shape, strides, block = found
    assert shape == x.shape
    assert block == (1, 1, 64, 16 if x.shape[3] == 16 else 32)
    for have, given, size in zip(strides, x.stride(), x.shape, strict=True):
        assert size == 1 or have == given
    made = compat.descriptor(x, *found)
    assert repr(made) == repr(TensorDescriptor(x, shape, strides, block))  # which checks it


@pytest.mark.parametrize(
    "x",
    [
        WHOLE[..., ::2],
        torch.zeros(2, 3, 40, 20, dtype=torch.bfloat16),  # rows of 40 bytes
        WHOLE[:1].expand(2, 3, 40, 24),
        WHOLE[:, :, :0],
        torch.zeros(2, 3, 1, 24 * 40 * 2, dtype=torch.bfloat16).as_strided(
            (2, 3, 40, 24), (960, 484, 24, 1)
        ),
    ],
)
def test_what_it_cannot_read_has_none(x: Tensor) -> None:
    assert boxed(x, 64) is None


def test_where_a_tensor_begins_is_each_launch_s_own() -> None:
    one, two = WHOLE[..., :16], WHOLE[..., 1:17]  # of the same kind
    box = boxed(one, 64)
    assert box is not None
    assert boxed(two, 64) == box
    layout = Layout(
        (None,), (), ((0, "x", box),), (), (1, 1), 1, INTERPRETED, one.device, False, None
    )
    assert layout.filled({"x": one}, {})[0].base is one
    assert layout.filled({"x": two}, {}) == (None,)
