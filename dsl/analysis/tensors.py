"""Which expressions read tensors."""

from __future__ import annotations

from attnspec.dsl.ast import Expr, Form, Read, Spec, walk


def tensors(spec: Spec, expr: Expr) -> bool:
    """Whether a tensor (anything but run-time scalars) is read in `expr`."""
    for node in walk(expr):
        if isinstance(node, Read):
            decl = spec.decl(node.name)
            if decl is None or decl.axes or decl.form is Form.PARAM:
                return True
    return False
