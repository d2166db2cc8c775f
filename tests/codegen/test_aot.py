"""Kernels compiled without a GPU: they compile, fit, do not spill, and use what the target has."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest
import torch
from benchmarks.aot import compile_kernels, unique

import attnspec
from attnspec.codegen.library import names
from attnspec.dsl.ast import Spec
from attnspec.runtime import aot, tiles
from attnspec.runtime.arrange import need, packed
from attnspec.runtime.compat import targeting
from attnspec.runtime.disassembly import instructions
from attnspec.runtime.kernel import interpreted
from attnspec.runtime.problem import Problem
from attnspec.runtime.tiles import SHARED, TARGETS, TUNED, Need, config, described, read_tuned
from attnspec.runtime.tune import neighbours, spare, spares

SPECS = ("causal", "alibi", "softcap", "t5", "gated_elementwise", "padded")
WITHOUT_SPILLS = ("cuda:80", "cuda:90")
USUAL = ("light", "masked", "listed", "shared", "tight", "heavy")  # which calls make of others

pytestmark = pytest.mark.skipif(interpreted(), reason="the interpreter compiles nothing")


@cache
def loaded(name: str) -> tuple[Spec, ModuleType]:
    attention = attnspec.load(name)
    return attention.spec, attention._generated


@cache
def recorded(name: str, dtype: str, head_dim: int) -> Problem:
    return aot.record(*loaded(name), dtype, head_dim)


def built(
    name: str, kernel: str, target: str, dtype: str = "bf16", head_dim: int = 64
) -> aot.Built:
    call = recorded(name, dtype, head_dim)
    return aot.build_kernel(*loaded(name), kernel, call, target, dtype, head_dim)[0]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("target", WITHOUT_SPILLS)
@pytest.mark.parametrize("name", SPECS)
def test_no_kernel_spills(name: str, target: str, head_dim: int) -> None:
    for kernel in loaded(name)[1].KERNELS:
        found = built(name, kernel, target, head_dim=head_dim)
        assert found.spills == 0, found
        assert 0 < found.registers <= 255
        assert 0 < found.shared <= SHARED[target]
        assert found.mma > 0
        assert (found.wgmma > 0) == (target == "cuda:90"), found


@pytest.mark.parametrize("kernel", ["forward", "backward_rows", "backward_columns", "table"])
@pytest.mark.parametrize("target", ["cuda:100", "hip:gfx942"])
def test_every_template_compiles_for_every_target(target: str, kernel: str) -> None:
    """A table's gradient and its look-ups are what differs most between targets."""
    found = built("t5", "backward_u_table_ij" if kernel == "table" else kernel, target)
    assert 0 < found.shared <= SHARED[target]
    assert found.mma > 0


@pytest.mark.parametrize("head_dim", [16, 96, 256, 512])
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "hip:gfx942"])
def test_other_head_dimensions_fit(target: str, head_dim: int) -> None:
    for kernel in ("forward", "backward_rows", "backward_columns"):
        found = built("full", kernel, target, head_dim=head_dim)
        assert found.shared <= SHARED[target], found


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90"])
def test_several_weights_of_wide_vectors_fit(target: str) -> None:
    """Each alone would."""
    for kernel in ("forward", "backward_rows", "backward_columns"):
        found = built("differential", kernel, target, head_dim=512)
        assert found.shared <= SHARED[target], found


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_other_dtypes_fit(dtype: str) -> None:
    for kernel in ("forward", "backward_rows", "backward_columns"):
        found = built("causal", kernel, "cuda:90", dtype)
        assert found.spills == 0, found
        assert found.shared <= SHARED["cuda:90"]
        assert (found.wgmma > 0) == (dtype == "fp16")


@pytest.mark.parametrize("target", ["cuda:90", "cuda:100"])
@pytest.mark.parametrize(
    ("name", "kernel", "head_dim"),
    [
        ("causal", "forward", 64),
        ("causal", "forward", 128),
        ("causal", "backward_rows", 64),
        ("causal", "backward_rows", 128),
        ("causal", "backward_columns", 64),
        ("causal", "forward", 256),
        ("alibi", "forward", 96),
        ("gated_elementwise", "forward", 128),
    ],
)
def test_descriptors_load_tiles_without_spills(
    name: str, kernel: str, head_dim: int, target: str
) -> None:
    call = recorded(name, "bf16", head_dim)
    wanted = need(call, kernel)
    tile = described(wanted, config(wanted, target))
    work = (*loaded(name), kernel, call, target, "bf16", head_dim, tile)
    found, binary = aot.build_kernel(*work)
    assert found.copies >= 3  # of queries, keys and values
    assert found.spills == 0
    assert 0 < found.shared <= SHARED[target]
    assert sum(i.name.startswith("UTMALDG") for i in instructions(binary)) >= 3


# What holds most of its kind: channels that fill no power of two beside a slope or a loop over
# query heads, wide channels, many numbers of a pair.
@pytest.mark.parametrize(
    ("name", "place", "kernel", "target", "head_dim", "group"),
    [
        ("alibi", 0, "backward_rows", "cuda:90", 96, 1),
        ("causal", 0, "backward_columns", "cuda:90", 96, 4),
        ("causal", 0, "backward_columns", "cuda:90", 256, 1),
        ("causal", 0, "forward", "cuda:80", 256, 1),
        ("causal", 0, "backward_columns", "cuda:100", 128, 4),
        ("causal", 0, "forward", "cuda:100", 256, 1),
        ("t5", 0, "backward_u_table_ij", "cuda:90", 256, 1),
        ("pine", 5, "forward", "cuda:90", 128, 1),
        ("contextual_position", 1, "backward_rows", "cuda:90", 128, 1),
        ("halo", 0, "backward_rows", "cuda:90", 128, 1),
        ("halo_downsampled", 0, "backward_columns", "cuda:90", 64, 1),
        ("deberta", 0, "backward_columns", "cuda:90", 128, 1),
        ("relative_local", 0, "backward_rows", "cuda:90", 128, 1),
        ("graph_additive", 0, "forward", "cuda:90", 128, 1),
        ("natten_causal", 0, "forward", "cuda:90", 128, 1),
        ("learned_normaliser", 0, "backward_rows", "cuda:90", 128, 1),
        ("key_gated_score", 0, "backward_rows", "cuda:90", 64, 1),
        ("dual_softmax", 2, "backward_rows", "cuda:90", 64, 1),
        ("contextual_position", 1, "backward_columns", "cuda:90", 128, 1),
        ("landmark", 1, "forward", "cuda:90", 64, 1),
        ("landmark", 1, "forward", "cuda:90", 128, 1),
        ("t5_causal", 0, "backward_columns", "cuda:90", 96, 4),
        ("forgetting", 0, "forward", "cuda:90", 128, 1),
        ("natten", 0, "backward_columns", "cuda:90", 128, 1),
        ("graph_additive", 0, "forward", "cuda:100", 128, 1),
        ("zero_padded_window", 0, "forward", "cuda:80", 64, 1),
        ("expert_choice", 0, "backward_rows", "cuda:80", 64, 1),
        ("halo", 0, "backward_rows", "cuda:80", 128, 1),
        ("deberta", 0, "backward_columns", "cuda:80", 64, 1),
        ("pine", 5, "forward", "cuda:80", 128, 1),
        # and those of which more than others spilled in the tables' tiles
        ("cross_lingual", 0, "backward_rows", "cuda:90", 64, 1),
        ("latent", 0, "backward_columns", "cuda:90", 128, 1),
        ("guided_sharing", 1, "backward_rows", "cuda:90", 128, 1),
        ("natten", 0, "forward", "cuda:90", 128, 1),
        ("sink", 0, "forward", "cuda:80", 128, 1),
    ],
)
def test_what_holds_much_takes_tiles_that_do_not_spill(
    name: str, place: int, kernel: str, target: str, head_dim: int, group: int
) -> None:
    spec, module = loaded(name)
    call = aot.record(spec, module, "bf16", head_dim, place, group=group)
    found, _ = aot.build_kernel(spec, module, kernel, call, target, "bf16", head_dim)
    assert found.spills == 0, found
    assert found.shared <= SHARED[target]


@pytest.mark.parametrize(
    ("name", "place", "kernel", "head_dim", "group", "load"),
    [
        ("full", 0, "forward", 128, 1, "light"),
        ("causal", 0, "backward_columns", 128, 1, "masked"),
        ("causal", 0, "backward_columns", 128, 4, "shared"),
        ("causal", 0, "backward_rows", 128, 4, "masked"),
        ("causal", 0, "backward_columns", 96, 4, "tight"),
        ("alibi", 0, "backward_rows", 128, 1, "masked"),
        ("alibi", 0, "backward_rows", 96, 1, "tight"),
        ("alibi", 0, "backward_columns", 128, 2, "tight"),
        ("gated_elementwise", 0, "backward_rows", 96, 1, "tight"),
        ("gated_elementwise", 0, "backward_columns", 96, 1, "masked"),
        ("causal_documents", 0, "forward", 96, 1, "listed"),
        ("t5", 0, "backward_columns", 96, 4, "heavy"),
        ("halo", 0, "forward", 128, 1, "laden"),
        ("deberta", 0, "forward", 128, 1, "laden"),
        ("contextual_position", 1, "forward", 128, 1, "crowded"),
        ("crystalformer", 1, "backward_rows", 128, 1, "crowded"),
    ],
)
def test_what_a_tile_is_found_to_hold(
    name: str, place: int, kernel: str, head_dim: int, group: int, load: str
) -> None:
    spec, module = loaded(name)
    call = aot.record(spec, module, "bf16", head_dim, place, group=group)
    assert need(call, kernel).load == load


def test_a_search_passes_over_what_spills() -> None:
    """By descriptors partial tiles take other registers, and so another edge."""
    call = recorded("causal", "bf16", 128)
    work = (*loaded("causal"), "backward_columns", call, "cuda:90", "bf16", 128)
    tile = config(need(call, "backward_columns"), "cuda:90")
    by_descriptors = [x for x in neighbours(tile, True, "cuda:90") if x.descriptors]
    assert not spares(work, replace(tile, descriptors=True))
    assert described(need(call, "backward_columns"), tile) == tile
    assert any(spares(work, x) for x in by_descriptors)


def test_tiles_of_single_kernels_are_those_that_compiling_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped = read_tuned(TUNED)
    monkeypatch.setattr(tiles, "_tuned", dict)
    found = [*spare(attnspec.load("sigmoid"), "cuda:90", 128, "bf16", None, 1)]
    assert found
    for each in found:
        assert each.after != each.before
        assert shipped[each.key] == each.after


def test_tiles_of_single_kernels_are_of_the_library() -> None:
    """One that is not is left over: what its kernel works out has changed."""
    modules = [attnspec.load(name)._module for name in names()]
    passes = [plan for module in modules if module for plan, _ in module.PASSES]
    known = {(load, plan.counts) for plan in passes for load in (*plan.loads, *USUAL)}
    alone = [of for of in read_tuned(TUNED) if of.like]
    assert alone
    assert {(of.load, of.like.partition(";")[0]) for of in alone} <= known


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_too_wide_says_what_would_fit(target: str) -> None:
    wide = need(recorded("full", "bf16", 1024), "forward")
    with pytest.raises(attnspec.AttnError, match=r"expected at most 512 .* got 1024"):
        config(wide, target)


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100"])
@pytest.mark.parametrize("name", ["causal", "alibi", "softcap"])
def test_few_queries_whose_keys_are_shared_take_small_tiles(name: str, target: str) -> None:
    for head_dim in (64, 128):
        assert few(name, target, head_dim, rows=1).block_m == 16


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100"])
@pytest.mark.parametrize("name", ["alibi", "documents"])
def test_heads_that_share_a_tile_do_not_spill(name: str, target: str) -> None:
    for head_dim in (64, 128):
        assert few(name, target, head_dim, rows=1, group=4).block_m == 16
        assert few(name, target, head_dim, rows=8, group=8).block_m == 64


def test_few_queries_of_wide_heads_do_not_spill() -> None:
    assert few("causal", "cuda:80", 256, rows=1).block_m == 16
    assert few("causal", "cuda:90", 256, rows=8, group=8).block_m == 32


def few(name: str, target: str, head_dim: int, rows: int, group: int = 1) -> aot.Built:
    """The forward kernel of few queries whose keys are shared."""
    spec, module = loaded(name)
    call = aot.record(spec, module, "bf16", head_dim, rows=rows, group=group)
    tile = config(need(call, "forward"), target)
    assert packed(call, "forward", tile) == group
    found, _ = aot.build_kernel(spec, module, "forward", call, target, "bf16", head_dim, parts=8)
    assert found.spills == 0
    assert found.mma > 0
    return found


def test_an_unknown_target() -> None:
    with pytest.raises(attnspec.AttnError, match=r"target: expected one of cuda:80, .*cuda:70"):
        aot.gpu_target("cuda:70")


def test_a_report_lies_beside_its_binary() -> None:
    call = recorded("causal", "fp16", 32)
    work = (*loaded("causal"), "forward", call, "cuda:90", "fp16", 32)
    report, binary = aot.build_kernel(*work)
    files = aot.files(report, binary)
    assert set(files) == {f"causal.forward.cuda_90.fp16.d32.{x}" for x in ("cubin", "json")}
    assert files["causal.forward.cuda_90.fp16.d32.cubin"].startswith(b"\x7fELF")
    assert aot.build_kernel(*work) == (report, binary)


def test_a_launch_is_compiled_for_what_is_known_of_its_arguments() -> None:
    """Strides of tiles are constants, multiples of 16 are known, lengths are not."""
    _, module = loaded("causal")
    call = recorded("causal", "bf16", 64)
    tile = config(need(call, "forward"), "cuda:90")
    source = aot.source_of(module, "forward", call, "cuda:90", tile)
    names = module.KERNELS["forward"].arg_names
    place = {name: (names.index(name),) for name in names}
    assert source.constants[place["s_u_q_c"]] == 1
    assert source.constants[place["s_u_q_i"]] == 64
    assert source.signature["M"] == "i32"
    assert place["s_u_q_h"] in source.attrs
    assert place["M"] not in source.attrs


def test_a_channel_axis_of_any_name_has_its_stride() -> None:
    text = "axis r\nquery q2[r]\nkey k2[r]\nscore = dot(q[i], k[j]) + dot(q2[i], k2[j])"
    attention = attnspec.compile(f"attention a\n{text}\n")
    module = attention._generated
    call = aot.record(attention.spec, module, "fp32", 16)
    tile = config(need(call, "forward"), "cuda:90")
    with targeting(aot.gpu_target("cuda:90")):
        assert aot.source_of(module, "forward", call, "cuda:90", tile) is not None


@pytest.mark.parametrize("target", TARGETS)
def test_many_products_of_one_vector_take_a_small_tile(target: str) -> None:
    """The places of a block: one side may be wide where the other is not."""
    need = Need("forward", 128, 1024, 0, "heavy", torch.float16)
    assert config(need, target).block_n == 16
    for other in (replace(need, left=256), replace(need, right=2048)):
        with pytest.raises(attnspec.AttnError, match="expected at most 512"):
            config(other, target)


def test_the_library_is_compiled_pass_by_pass_and_equal_kernels_once() -> None:
    with ThreadPoolExecutor(1) as pool:
        found = dict(unique(["causal", "landmark", "causal_documents", "causal"], pool))
    kernels = loaded("landmark")[1].PASSES[0][1]
    assert found["landmark"] == [(place, name) for place in range(3) for name in kernels]
    assert "causal" in found
    again = compile_kernels("causal", [(0, "forward")], "cuda:90")
    assert [built.head_dim for built in again] == [64, 128]
