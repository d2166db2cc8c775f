"""The command line: what it prints, writes and exits with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from attnspec import __version__
from attnspec.codegen import library
from attnspec.codegen.cli import main

BROKEN = """attention broken
mask  j <= i
score = dot(q[i], kk[j])
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Result:
    """Run a command; an exception that is no exit is an error of ours."""
    result = CliRunner().invoke(main, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*args: str) -> Any:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_version_and_help_name_every_command() -> None:
    assert run("--version").output == f"attnspec, version {__version__}\n"
    text = run("--help").output
    for command in ("list", "check", "explain", "build", "verify", "bench", "tune", "plot", "new"):
        assert f"\n  {command} " in text


@pytest.mark.parametrize(
    "args",
    [
        ("check",),
        ("check", "no_such_spec"),
        ("check", "missing/file.attn"),
        ("check", "../specs/causal"),
        ("explain",),
        ("explain", "causal", "alibi"),
        ("verify",),
        ("verify", "causal", "--cases", "0"),
        ("verify", "causal", "--backend", "tpu"),
        ("build", "causal"),
        ("build", "causal", "-o", "x", "--dtype", "fp64"),
        ("bench", "causal", "--against", "sdpa,xformers"),
        ("tune",),
        ("tune", "causal", "--dtype", "fp64"),
        ("plot", "causal"),
        ("plot", "causal", "-o", "picture.txt"),
        ("new",),
        ("new", "Not-A-Name"),
        ("new", "../escape"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(here: Path, args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Usage: ")
    assert list(here.iterdir()) == []


def test_a_near_miss_is_named() -> None:
    assert "did you mean 'causal'?" in run("check", "casual").stderr


# check


def test_check_of_clean_specs() -> None:
    result = run("check", "causal", "alibi")
    assert (result.exit_code, result.output) == (0, "causal.attn: clean\nalibi.attn: clean\n")


def test_check_finds_errors_and_goes_on(here: Path) -> None:
    Path("broken.attn").write_text(BROKEN)
    result = run("check", "broken.attn", "causal")
    assert result.exit_code == 1
    assert "--> broken.attn:3:19\n" in result.output
    assert "score = dot(q[i], kk[j])\n" in result.output
    assert "causal.attn: clean\n" in result.output


def test_check_as_json(here: Path) -> None:
    Path("broken.attn").write_text(BROKEN)
    result = run("check", "broken.attn", "causal", "--json")
    assert result.exit_code == 1
    broken, causal = json.loads(result.stdout)
    assert (causal["spec"], causal["ok"], causal["diagnostics"]) == ("causal", True, [])
    assert (broken["path"], broken["ok"]) == ("broken.attn", False)
    (found,) = broken["diagnostics"]
    assert found["severity"] == "error"
    assert found["code"].startswith("A")
    assert (found["span"]["line"], found["span"]["column"]) == (3, 19)


def test_a_warning_is_no_error(here: Path) -> None:
    Path("loose.attn").write_text("attention loose\nlet unused = 3\nmask j <= i\n")
    result = run("check", "loose.attn")
    assert result.exit_code == 0
    assert "warning[" in result.output
    assert result.output.endswith("loose.attn: 1 warning\n")
    (found,) = json.loads(run("check", "loose.attn", "--json").stdout)[0]["diagnostics"]
    assert found["severity"] == "warning"


@pytest.mark.parametrize("data", [b"\xff\xfeattention", b"", b"attention x" * 10_000, b"(" * 10**6])
def test_a_file_that_is_no_spec(here: Path, data: bytes) -> None:
    Path("odd.attn").write_bytes(data)
    result = run("check", "odd.attn")
    assert result.exit_code == 1
    assert result.output.startswith("error")
    assert len(result.output) < 3000


def test_check_takes_the_whole_library() -> None:
    names = library.names()
    assert len(names) >= 40
    result = run("check", *names)
    assert result.exit_code == 0, result.output


# new


def test_a_new_spec_checks(here: Path) -> None:
    assert run("new", "mine").exit_code == 0
    result = run("check", "mine.attn")
    assert (result.exit_code, result.output) == (0, "mine.attn: clean\n")


def test_new_does_not_overwrite(here: Path) -> None:
    Path("mine.attn").write_text("mine")
    result = run("new", "mine")
    assert (result.exit_code, result.stderr) == (1, "error: mine.attn is there already\n")
    assert Path("mine.attn").read_text() == "mine"


# library


@pytest.mark.parametrize(
    "name", ["../specs/causal", "causal.attn", "Causal", "", "causal\n", "c\0", "."]
)
def test_a_library_name_is_no_path(here: Path, name: str) -> None:
    assert not library.exists(name)


def test_a_path_wins_over_nothing_and_a_name_over_a_file(here: Path) -> None:
    Path("causal").write_text(BROKEN)
    assert library.find("causal")[1] == "causal.attn"
    assert library.find("./causal") == (BROKEN, "./causal")


# list and explain


def test_list_as_json() -> None:
    rows = run_json("list")
    assert [row["name"] for row in rows] == list(library.names())
    for row in rows:
        assert set(row) >= {"name", "title", "cite", "catalog", "stages", "backward"}
        assert row["title"]
        assert all(row["cite"])
        assert isinstance(row["backward"], bool)
        assert row["stages"]
        for stage in row["stages"]:
            assert set(stage) == {"name", "kind", "lowering", "why"}
            assert stage["lowering"] in ("fused", "host", "scan", "select", "blocked", "dense")
            assert stage["why"] or stage["lowering"] not in ("blocked", "dense")
    fused = [r for r in rows if all(s["lowering"] in ("fused", "host") for s in r["stages"])]
    assert len([row for row in fused if row["backward"]]) >= 30


def test_list_for_people() -> None:
    lines = run("list").output.splitlines()
    assert lines[0].split() == ["name", "lowering", "backward", "title", "catalog", "cite"]
    (row,) = [line for line in lines if line.startswith("alibi ")]
    assert "fused" in row
    assert "yes" in row
    assert row.rstrip().endswith("arXiv:2108.12409")


def test_explain_says_what_was_read_proved_and_planned() -> None:
    text = run("explain", "sliding_window").output
    for line in (
        "sliding_window: Causal sliding window",
        "  mask = i - window < j and j <= i",
        "  score[b, h, i, j] = sum(d, q[i, d] * k[j, d]) / sqrt(D)",
        "  output: pairwise, fused",
        "  backward: every gradient is generated",
        "tiles of 4 x 4",
        "  N = 64, window = 16",
        "  70 of 256 visited, 42 of them without the mask",
        "  ▒███▒···········",
    ):
        assert f"{line}\n" in text
    assert text.count("      because ") == text.count("      so ") >= 5
    assert "few queries: the query heads of a key head share a tile\n" in text
    assert "\noperations for each score element\n  forward: 6: 2 add, 1 convert, 1 exp2" in text


def test_explain_as_json() -> None:
    found = run_json("explain", "sliding_window")
    assert found["equations"]["mask"] == "i - window < j and j <= i"
    assert {"name", "value", "why", "buys"} == set(found["facts"]["facts"][0])
    assert found["stages"][-1]["lowering"] == "fused"
    assert found["passes"][0]["branches"][0]["normalizer"] == "softmax"
    assert found["picture"]["rows"][0] == "▒" + "·" * 15
    assert found["operations"]["forward"]["partial"]["compare"] == 2


@pytest.mark.parametrize("name", library.names())
def test_every_library_spec_can_be_explained(name: str) -> None:
    text = run("explain", name).output
    assert text.startswith(f"{name}: ")
    assert "\nplan\n" in text
    assert "Node(" not in text


def test_explain_of_a_broken_spec(here: Path) -> None:
    Path("broken.attn").write_text(BROKEN)
    result = run("explain", "broken.attn")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--> broken.attn:3:19\n" in result.stderr


# build and plot


def test_build_writes_modules_and_a_manifest(here: Path) -> None:
    result = run("build", "causal", "alibi", "-o", "out")
    assert result.exit_code == 0, result.output
    assert {p.name for p in Path("out").iterdir()} == {
        "causal.py",
        "alibi.py",
        "manifest.json",
        ".lock",
    }
    first = Path("out/causal.py").read_bytes()
    assert list(json.loads(Path("out/manifest.json").read_text())["files"]) == [
        "alibi.py",
        "causal.py",
    ]
    assert run("build", "causal", "-o", "out").exit_code == 0
    assert Path("out/causal.py").read_bytes() == first


def test_a_second_build_reads_no_spec(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNSPEC_CACHE", str(here / "cache"))
    assert run("build", "causal", "gla", "-o", "out").output.count("written") == 1
    first, manifest = (Path("out", n).read_bytes() for n in ("causal.py", "manifest.json"))
    with monkeypatch.context() as patched:
        patched.delattr("attnspec.dsl.parse.parse")
        again = run("build", "causal", "gla", "-o", "out")
        assert again.output.count("unchanged") == 1
        assert "gla: no kernel covers it" in again.stderr
        Path("out/causal.py").write_text("other")
        assert "written" in run("build", "causal", "-o", "out").output
        Path("out/manifest.json").unlink()
        assert "written" in run("build", "causal", "-o", "out").output
    assert Path("out/causal.py").read_bytes() == first
    assert Path("out/manifest.json").read_bytes() == manifest


def test_all_specs_are_built_in_one_go(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnspec.codegen.library.names", lambda: ("causal", "full"))
    assert run("build", "--all", "-o", "out").exit_code == 0
    assert {p.stem for p in Path("out").glob("*.py")} == {"causal", "full"}
    assert run("build", "-o", "out").exit_code == 2


def test_build_to_a_place_that_cannot_be_made(here: Path) -> None:
    Path("file").write_text("")
    result = run("build", "causal", "-o", "file/out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: file/out cannot be written: ")


def test_what_has_no_kernel_can_be_refused(here: Path) -> None:
    result = run("build", "gla", "-o", "out", "--require", "fused")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: gla has no kernel (")
    assert not Path("out").exists()


def test_build_for_a_target_leaves_binaries_and_reports(here: Path) -> None:
    result = run(
        "build", "causal", "-o", "out", "--target", "cuda:90", "--dtype", "fp16", "--head-dim", "32"
    )
    assert result.exit_code == 0, result.output
    reports = sorted(Path("out").glob("causal.*.json"))
    assert len(reports) >= 3
    phases = set()
    for report in reports:
        found = json.loads(report.read_text())
        assert report.with_suffix(".cubin").read_bytes().startswith(b"\x7fELF")
        assert (found["spec"], found["target"]) == ("causal", "cuda:90")
        assert (found["dtype"], found["head_dim"]) == ("fp16", 32)
        assert found["registers"] > 0
        assert found["shared"] > 0
        for key in ("kernel", "block_m", "block_n", "warps", "stages", "spills"):
            assert key in found
        phases.add(found["phase"])
    assert phases >= {"fwd", "bwd_dq", "bwd_dkv"}
    listed = json.loads(Path("out/manifest.json").read_text())["files"]
    assert set(listed) == {p.name for p in Path("out").iterdir()} - {"manifest.json", ".lock"}


def test_an_unknown_target(here: Path) -> None:
    result = run("build", "causal", "-o", "out", "--target", "cuda:70")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: target: expected one of cuda:80, ")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot_writes_a_picture(here: Path, suffix: str) -> None:
    result = run("plot", "causal", "-o", f"mask.{suffix}", "--length", "8")
    assert (result.exit_code, result.output) == (0, f"mask.{suffix} written\n")
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    assert Path(f"mask.{suffix}").read_bytes().startswith(starts[suffix])


# bench


QUICK = ("--seconds", "0", "--heads", "2", "--channels", "8")


def test_bench_as_json() -> None:
    found = run_json("bench", "causal", "--against", "sdpa,eager", "--length", "48", *QUICK)
    assert [one["phase"] for one in found] == ["forward", "forward + backward"]
    for one in found:
        assert (one["spec"], one["rows"], one["columns"], one["heads"]) == ("causal", 48, 48, 2)
        assert one["pairs"] == 2 * 48 * 49 // 2
        ours, *others = one["found"]
        assert (ours["implementation"], ours["ratio"]) == ("attnspec", None)
        assert [row["implementation"] for row in others] == ["sdpa", "eager"]
        for row in others:
            assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
            assert row["milliseconds"]["median"] > 0
            assert row["rounds"] >= 5


@pytest.mark.parametrize("name", ["lightning", "entropy", "pointer"])
def test_bench_of_other_kinds_of_specs(name: str) -> None:
    found = run_json("bench", name, "--against", "sdpa,reference", "--length", "16", *QUICK)
    ours, sdpa, reference = found[0]["found"]
    assert ours["milliseconds"]["median"] > 0
    assert (sdpa["milliseconds"], sdpa["ratio"]) == (None, None)
    assert sdpa["why"]
    assert (reference["milliseconds"] is None) == (name == "pointer") == bool(reference["why"])


def test_bench_of_a_decode_step_with_fewer_key_heads() -> None:
    sizes = ("--length", "64", "--rows", "1", "--kv-heads", "1")
    for one in run_json("bench", "causal", "--against", "sdpa,eager", *sizes, *QUICK):
        assert (one["rows"], one["columns"], one["kv_heads"], one["pairs"]) == (1, 64, 1, 128)
        assert not any(row["why"] for row in one["found"])


def test_bench_for_people() -> None:
    text = run("bench", "causal", "--length", "32", *QUICK).output
    assert text.startswith("causal, forward, 1 x 2 x 32 x 32 x 8 float32")
    assert "  sdpa: is_causal\n" in text


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnspec.runtime.verify_compare.ULPS", -1e9)  # nothing is good enough
    result = run("bench", "causal", "--length", "24", *QUICK)
    assert result.exit_code == 1
    assert "\n  nothing timed: " in result.output
    assert "sdpa" not in result.output


# tune


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tune_without_a_gpu(here: Path) -> None:
    result = run("tune", "causal", "-o", "tiles.json")
    assert result.exit_code == 1
    assert result.stderr == ("error: tune: expected a CUDA GPU to measure on, there is none here\n")
    assert list(here.iterdir()) == []


def test_tune_without_a_gpu_asks_what_to_compile_for(here: Path) -> None:
    result = run("tune", "causal", "--compile-only", "-o", "tiles.json")
    assert result.exit_code == 1
    assert result.stderr == "error: target: expected what to compile for, such as cuda:90\n"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("target", ["cuda:90a", "cuda:70", "h100"])
def test_tune_for_an_unknown_target(target: str) -> None:
    result = run("tune", "causal", "--compile-only", "--target", target)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: target: expected one of cuda:80, ")


def test_tune_without_kernels() -> None:
    result = run("tune", "gla", "--compile-only", "--target", "cuda:90")
    assert (result.exit_code, result.stderr) == (1, "error: gla: has no kernels\n")


# verify


def test_verify_of_a_right_spec() -> None:
    result = run("verify", "causal", "--cases", "3", "--seed", "1", "--backend", "cpu")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("causal: 3 cases on cpu: ok, ")


def test_verify_tells_how_to_run_a_failure_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnspec.runtime.verify_compare.ULPS", -1e9)  # nothing is good enough
    result = run("verify", "causal", "--cases", "2", "--seed", "7", "--backend", "cpu")
    assert result.exit_code == 1
    assert "causal: 1 cases on cpu: FAILED" in result.output
    assert "run again: attnspec verify causal --cases 2 --seed 7 --backend cpu" in result.output
