"""Where specs come from: the library by name, anything else by path."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path

from attnspec.dsl.diagnostics import AttnError
from attnspec.dsl.limits import FILE_BYTES

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def names() -> tuple[str, ...]:
    """The names of the library's specs, sorted."""
    found = (item.name for item in (resources.files("attnspec") / "specs").iterdir())
    return tuple(sorted(name.removesuffix(".attn") for name in found if name.endswith(".attn")))


def exists(name_or_path: str) -> bool:
    """Whether there is such a library spec or such a file."""
    return _in_library(name_or_path) or Path(name_or_path).is_file()


def find(name_or_path: str) -> tuple[str, str]:
    """Text and path of a library spec, or of the file at a path; AttnError when there is none."""
    if _in_library(name_or_path):
        file = resources.files("attnspec") / "specs" / f"{name_or_path}.attn"
        return file.read_text(encoding="utf-8"), file.name
    path = Path(name_or_path)
    if not path.is_file():
        raise AttnError(missing(name_or_path))
    try:
        with path.open("rb") as file_:
            data = file_.read(16 * FILE_BYTES)  # what is longer, the parser refuses
        return data.decode("utf-8"), name_or_path
    except UnicodeDecodeError as error:
        raise AttnError(f"{name_or_path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise AttnError(f"{name_or_path} cannot be read: {error.strerror}") from None


def missing(name_or_path: str) -> str:
    """What to say where `find` finds nothing."""
    text = f"there is no spec {name_or_path!r}: no such file"
    if not _NAME.fullmatch(name_or_path):
        return text
    close = difflib.get_close_matches(name_or_path, names(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{text}, and none of that name in the library{hint}"


def _in_library(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name in names()
