"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import gc
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Hypothesis reads every module loaded so far at its first draw, generated ones too: no slow input.
settings.register_profile("loaded", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

EXAMPLES = Path(__file__).parent / "dsl" / "examples.attn"


def read_examples() -> dict[str, str]:
    """The text of every example spec by its title, the rest of the line that starts `-----`."""
    head, *parts = EXAMPLES.read_text(encoding="utf-8").split("-----")
    assert head == ""
    return dict(part.split("\n", 1) for part in parts)


@pytest.fixture(scope="session")
def examples() -> dict[str, str]:
    """Every example spec, title to text."""
    return read_examples()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes expected texts anew instead of comparing with them."""
    parser.addoption("--update-golden", action="store_true", help="rewrite expected texts")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether expected texts are to be written anew."""
    return bool(request.config.getoption("--update-golden"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `example` runs once for every spec, as (title, text)."""
    if "example" in metafunc.fixturenames:
        pairs = read_examples().items()
        metafunc.parametrize("example", pairs, ids=[title for title, _ in pairs])


def pytest_configure() -> None:
    """One seed for every worker, other specs than before whenever the sources have changed: so what
    is found belongs to the change, and is found again wherever the same sources are tested."""
    os.environ.setdefault("ATTNSPEC_FUZZ_SEED", str(_of_sources()))


def pytest_collection_finish() -> None:
    """What is imported by now stays: to search it for garbage again and again takes a tenth of the
    time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _of_sources() -> int:
    """A number below 10 ** 9 that follows from every line of the sources and their tests."""
    root, number = Path(__file__).parent.parent, 0
    for folder in ("dsl", "codegen", "templates", "runtime", "tests"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".lark", ".jinja"):
                number = zlib.crc32(path.read_bytes(), number)
    return number % 10**9


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how to repeat what was random."""
    seed = os.environ["ATTNSPEC_FUZZ_SEED"]
    terminalreporter.write_line(f"fresh specs from ATTNSPEC_FUZZ_SEED={seed}")
