"""Fixtures of the tests of the study."""

import pytest


@pytest.fixture(name="undrawn")
def undrawn_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no report."""
    pytest.importorskip("matplotlib")
    from convkern.fashion_mnist.study import report

    monkeypatch.setattr(report, "write_report", lambda folder, study, nets, data: None)
