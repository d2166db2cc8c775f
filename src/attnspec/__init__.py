"""attnspec: from an equation for attention to a fast, correct, differentiable kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnspec.dsl.diagnostics import AttnError
    from attnspec.runtime.api import Attention, compile, load

__version__ = "0.1.0"
__all__ = ["Attention", "AttnError", "__version__", "compile", "load"]

_HOMES = {
    "AttnError": "attnspec.dsl.diagnostics",
    "Attention": "attnspec.runtime.api",
    "compile": "attnspec.runtime.api",
    "load": "attnspec.runtime.api",
}


def __getattr__(name: str) -> object:
    """Resolve the public names on first use, so that importing attnspec imports nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'attnspec' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
