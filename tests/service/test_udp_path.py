"""Which UDP path is used, by what was built and what is wanted."""

from __future__ import annotations

import logging

import pytest

from internal_dns.errors import OperatorError
from internal_dns.forward import native as towards_upstreams
from internal_dns.service.parts import choose_udp_path
from internal_dns.transport import native as towards_clients


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (towards_clients, towards_upstreams):
        monkeypatch.setattr(module, "MISSING", "")


@pytest.mark.parametrize(
    ("wanted", "path"), [("auto", "native"), ("native", "native"), ("python",) * 2]
)
def test_what_is_built_is_used_unless_told_otherwise(wanted: str, path: str) -> None:
    assert choose_udp_path(wanted) == path


@pytest.mark.parametrize("module", [towards_clients, towards_upstreams])
def test_without_either_module_the_python_path_is_used_and_says_so(
    module: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MISSING", "no compiler")
    with caplog.at_level(logging.WARNING):
        assert choose_udp_path("auto") == "python"
    assert "native UDP path unavailable (no compiler); using the Python path" in caplog.text
    with pytest.raises(OperatorError, match="no compiler"):
        choose_udp_path("native")
