"""The search for tiles, and the table that it writes. What is measured here is made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from attnspec.dsl.diagnostics import AttnError
from attnspec.runtime import tiles
from attnspec.runtime.tile_tables import Config
from attnspec.runtime.tiles import (
    TARGETS,
    Need,
    config,
    key,
    own_key,
    read_tuned,
    trial,
    write_tuned,
)
from attnspec.runtime.tune import (
    Measure,
    at_hand,
    best,
    measure_by,
    neighbours,
    search,
    smaller,
)

START = Config(64, 64, 4, 2)
TARGET = "cuda:90"
NEED = Need("forward", 64, 64, 64, "masked", torch.bfloat16)


def made_up(cost: Callable[[Config], float], fails: Sequence[Config] = ()) -> Measure:
    """Times of three rounds, each slower than the one before for everything alike."""
    return lambda asked: {t: [cost(t), 2 * cost(t), 9 * cost(t)] for t in asked if t not in fails}


@pytest.mark.parametrize("by_columns", [False, True])
def test_neighbours_differ_in_one_number(by_columns: bool) -> None:
    for tile in (START, Config(128, 128, 8, 3, edge=32), Config(16, 256, 8, 1)):
        side = "block_m" if by_columns else "block_n"
        found = neighbours(tile, by_columns, TARGET)
        assert tile not in found
        assert len(set(found)) == len(found) >= 4
        for near in found:
            names = [field.name for field in fields(Config)]
            changed = [n for n in names if getattr(near, n) != getattr(tile, n)]
            assert changed in ([changed[0]], [side, "edge"], ["edge", "descriptors"])
            assert near.edge is None or 16 <= near.edge < getattr(near, side)


@pytest.mark.parametrize("target", TARGETS)
def test_descriptors_are_tried_where_there_is_an_engine_for_them(target: str) -> None:
    tried = {tile.descriptors for tile in neighbours(START, False, target)}
    assert tried == ({False, True} if target in ("cuda:90", "cuda:100", "cuda:120") else {False})


@pytest.mark.parametrize("name", ["pack", "again"])
def test_what_a_tile_has_by_default_may_be_left(name: str) -> None:
    found = neighbours(replace(START, **{name: True}), False, TARGET)
    assert START in found
    assert all(getattr(near, name) for near in found if near != START)
    assert not any(getattr(near, name) for near in neighbours(START, False, TARGET))


@pytest.mark.parametrize("by_columns", [False, True])
def test_smaller_tiles_come_with_the_least_change_first(by_columns: bool) -> None:
    side, other = ("block_m", "block_n") if by_columns else ("block_n", "block_m")
    start = Config(128, 128, 8, 3, edge=64, again=True)
    found = smaller(start, by_columns)
    assert found[:3] == (
        replace(start, edge=32),
        replace(start, edge=16),
        replace(start, stages=2),
    )
    assert len(set(found)) == len(found)
    assert start not in found
    assert all(tile.again for tile in found)
    sizes = [tile.block_m * tile.block_n for tile in found]
    assert sizes == sorted(sizes, reverse=True)
    assert (min(sizes), {tile.stages for tile in found}) == (16 * 16, {2, 3})
    assert {tile.warps for tile in found if tile.block_m * tile.block_n > 64 * 64} == {8}
    halves = [tile for tile in found if tile.block_m * tile.block_n == 128 * 64]
    assert (getattr(halves[0], side), getattr(halves[-1], other)) == (64, 64)


def test_the_best_is_taken_only_where_it_gains() -> None:
    other = replace(START, warps=8)
    assert best({START: [10.0, 20.0], other: [9.9, 19.8]}, START) == (START, 1.0)
    found, ratio = best({START: [10.0, 20.0], other: [9.0, 18.0]}, START)
    assert found == other
    assert ratio == pytest.approx(0.9)


def test_a_search_ends_at_the_least_that_is_within_reach() -> None:
    least = Config(128, 32, 8, 3, edge=16, descriptors=True)

    def cost(tile: Config) -> float:
        steps = [(tile.block_m, 128), (tile.block_n, 32), (tile.warps, 8), (tile.stages, 3)]
        steps += [(tile.edge or tile.block_n, 16), (1 if tile.descriptors else 2, 1)]
        return 1.0 + sum(max(a, b) / min(a, b) - 1 for a, b in steps)

    found, ratio = search(START, made_up(cost), False, TARGET)
    assert found == least
    assert ratio == pytest.approx(cost(least) / cost(START))


def test_what_does_not_run_is_no_choice() -> None:
    wide = replace(START, block_m=128)
    cost = {wide: 0.1}.get
    found, ratio = search(START, made_up(lambda t: cost(t, 1.0), [wide]), False, TARGET)
    assert (found, ratio) == (START, 1.0)


def test_every_tile_is_measured_once_beside_the_one_it_starts_from() -> None:
    asked: list[Config] = []

    def measure(wanted: Sequence[Config]) -> dict[Config, list[float]]:
        asked.extend(wanted[1:])
        return {tile: [float(1000 - tile.block_m)] for tile in wanted}

    assert search(START, measure, False, TARGET)[0].block_m == 256
    assert len(asked) == len(set(asked))


def test_tiles_that_fail_or_give_other_numbers_are_not_timed() -> None:
    of = key(NEED, "cuda:90")
    first, broken, wrong, right = (replace(START, block_m=m) for m in (64, 16, 32, 128))

    def run() -> list[torch.Tensor]:
        tile = config(NEED, "cuda:90")
        if tile == broken:
            raise RuntimeError("out of resources")
        return [torch.ones(3), torch.full((2,), 5.5 if tile == wrong else 5.0)]

    times = measure_by(of, run, "cpu")([first, broken, wrong, right])
    assert set(times) == {first, right}
    assert len(times[first]) == len(times[right]) >= 5


def test_what_does_not_pass_is_not_timed_unless_it_stands_in_the_table() -> None:
    first, other = START, replace(START, block_m=128)
    measure = measure_by(key(NEED, "cuda:90"), lambda: [torch.ones(2)], "cpu", lambda tile: False)
    assert set(measure([first, other])) == {first}


def test_a_trial_lasts_as_long_as_it_says() -> None:
    before, tried = config(NEED, "cuda:90"), Config(16, 16, 4, 1)
    with trial(key(NEED, "cuda:90"), tried):
        assert config(NEED, "cuda:90") == tried
        assert config(replace(NEED, left=65), "cuda:90") != tried
        assert config(NEED, "cuda:80") != tried
        assert config(replace(NEED, dtype=torch.float32), "cuda:90") != tried
        assert config(replace(NEED, dtype=torch.float16), "cuda:90") == tried
    assert config(NEED, "cuda:90") == before


def test_launches_read_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tuned.json"
    assert read_tuned(file) == {}
    one, two = Config(32, 64, 4, 2, edge=16, descriptors=True), Config(64, 32, 8, 1)
    write_tuned(file, {key(NEED, "cuda:90"): two, key(NEED, "cuda:80"): two})
    write_tuned(file, {key(NEED, "cuda:90"): one})
    assert read_tuned(file) == {key(NEED, "cuda:90"): one, key(NEED, "cuda:80"): two}
    before = file.read_text()
    write_tuned(file, {})
    assert file.read_text() == before
    monkeypatch.setattr(tiles, "TUNED", file)
    tiles._tuned.cache_clear()
    try:
        assert config(NEED, "cuda:90") == one
        assert config(NEED, "cuda:80") == two
    finally:
        tiles._tuned.cache_clear()


def test_kernels_that_work_out_the_same_may_have_a_tile_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, like = replace(NEED, counts="3 ij"), replace(NEED, counts="4 ij")
    alone, shared = Config(32, 64, 4, 2), Config(64, 32, 8, 1)
    assert key(mine, TARGET) == key(like, TARGET) == key(NEED, TARGET)
    found = {own_key(mine, TARGET): alone, key(NEED, TARGET): shared}
    monkeypatch.setattr(tiles, "_tuned", lambda: found)
    assert [config(each, TARGET) for each in (mine, like, NEED)] == [alone, shared, shared]
    with trial(key(mine, TARGET), START):
        assert [config(each, TARGET) for each in (mine, like)] == [START, shared]
    others = replace(mine, left=32), replace(mine, dtype=torch.float16)
    assert [config(each, TARGET) for each in others] == [shared, alone]
    found[own_key(others[1], TARGET)] = START
    assert [config(each, TARGET) for each in (mine, others[1])] == [alone, START]


@pytest.mark.parametrize(
    ("target", "dtype", "phase", "value", "again"),
    [
        ("cuda:80", torch.bfloat16, "forward", 128, True),
        ("cuda:90", torch.float16, "forward_few", 64, True),
        ("cuda:120", torch.float16, "forward_packed", 64, True),
        ("cuda:90", torch.bfloat16, "forward", 256, False),
        ("cuda:100", torch.bfloat16, "forward", 64, False),
        ("cuda:103", torch.bfloat16, "forward", 64, False),
        ("cuda:90", torch.float32, "forward", 64, False),
        ("cuda:90", torch.bfloat16, "backward_rows", 64, False),
        ("hip:gfx942", torch.bfloat16, "forward", 64, False),
    ],
)
def test_where_tiles_are_taken_again(
    target: str, dtype: torch.dtype, phase: str, value: int, again: bool
) -> None:
    need = replace(NEED, phase=phase, dtype=dtype, value=value)
    assert config(need, target).again == again


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(AttnError, match="there is none here"):
        at_hand()


@pytest.mark.parametrize(
    ("phase", "channels", "dtype", "some"),
    [
        ("forward", 128, torch.bfloat16, True),
        ("backward_columns", 64, torch.bfloat16, True),
        ("backward_columns", 128, torch.bfloat16, False),
        ("forward", 64, torch.float32, False),
    ],
)
def test_descriptors_load_where_they_spill_nothing(
    phase: str, channels: int, dtype: torch.dtype, some: bool
) -> None:
    wanted = Need(phase, channels, channels, channels, "masked", dtype)
    plain = config(wanted, TARGET)
    with tiles.by_descriptors():
        assert tiles.trying()
        assert config(wanted, TARGET) == replace(plain, descriptors=some)
        assert not config(wanted, "cuda:80").descriptors
    assert config(wanted, TARGET) == plain
    assert not tiles.trying()


def test_by_descriptors_are_measured_tiles_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {key(NEED, "cuda:90"): tiles.config(NEED, "cuda:90")}
    monkeypatch.setattr(tiles, "_tuned", lambda: found)
    assert not tiles.config(NEED, "cuda:90").descriptors
    with tiles.by_descriptors():
        assert tiles.config(NEED, "cuda:90").descriptors
