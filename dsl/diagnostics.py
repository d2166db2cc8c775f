"""Diagnostics as data: what is wrong, where, and how to mend it. Rendering is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attnspec.dsl.span import Span


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding.

    `title` is lower case without a full stop, `label` says what is wrong at `span`, `help` what
    to write instead. `notes` are further places with a text each.
    """

    code: str
    severity: Literal["error", "warning"]
    title: str
    span: Span
    label: str = ""
    help: str = ""
    notes: tuple[tuple[Span, str], ...] = ()


class AttnError(Exception):
    """Every error that a user can cause: in a spec, at a call, on the command line.

    `diagnostics` are the findings in a spec's text (empty for an error at a call); `text` and
    `path` are the spec they stand in.
    """

    def __init__(
        self,
        message: str,
        diagnostics: tuple[Diagnostic, ...] = (),
        *,
        text: str = "",
        path: str = "",
    ) -> None:
        super().__init__(message)
        self.diagnostics = diagnostics
        self.text = text
        self.path = path

    def __str__(self) -> str:
        """The message, or the findings over the source lines they speak of."""
        # Here, because rendering knows diagnostics and not the other way round.
        from attnspec.dsl.render_diagnostic import plain

        if not self.diagnostics:
            return super().__str__()
        return "\n".join(plain(found, self.text, self.path) for found in self.diagnostics).rstrip()
