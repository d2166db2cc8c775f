"""The page of the catalog says what the library is."""

from __future__ import annotations

from tests import catalog


def test_the_page_is_up_to_date() -> None:
    """`python -m tests.catalog docs/catalog.md NAME...` writes it anew."""
    text = catalog.PAGE.read_text(encoding="utf-8")
    assert text == catalog.page(catalog.recorded(text))


def test_every_measured_error_is_allowed() -> None:
    errors = catalog.recorded(catalog.PAGE.read_text(encoding="utf-8"))
    assert set(errors) == {spec.name for spec in catalog.specs()}
    for spec in catalog.specs():
        fused = "fused" in catalog.lowering(spec)
        assert (errors[spec.name] != catalog.UNMEASURED) == fused, spec.name
        largest = float(errors[spec.name]) if fused else 0.0
        assert 0 <= largest <= 1, spec.name


def test_a_row_has_a_spec_or_a_reason() -> None:
    covered = {row for spec in catalog.specs() for row in spec.catalog}
    missing = [x.row for x in catalog.without()]
    assert len(missing) == len(set(missing))
    assert not covered & set(missing)
    assert all(x.mechanism and len(x.reason) > 20 for x in catalog.without())
