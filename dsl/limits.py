"""How much a spec may hold, so that every later pass may recurse and none takes long."""

from __future__ import annotations

from typing import Final

FILE_BYTES: Final = 64 * 1024
BRACKET_DEPTH: Final = 64
STATEMENTS: Final = 500
STATEMENT_TOKENS: Final = 6_000
EXPRESSION_NODES: Final = 2_000  # in one statement
EXPRESSION_DEPTH: Final = 100  # of operators and calls inside one another
NAME_LENGTH: Final = 63
LARGEST_INT: Final = 2**53  # every int up to it is a float64 too
