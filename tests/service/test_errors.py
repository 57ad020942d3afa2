"""Errors that prevent a start: one class, with what, why and do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from internal_dns.cli.common import AsJson, error_text
from internal_dns.config import ConfigurationError
from internal_dns.errors import CONFIGURATION, OperatorError
from internal_dns.net import Endpoint
from internal_dns.service import errors

HERE = Endpoint.parse("[fdaa::3]:53")


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "does"),
    [
        (errno.EADDRINUSE, "ss -lunp 'sport = :53'"),
        (errno.EACCES, "net.ipv4.ip_unprivileged_port_start=53"),
        (errno.EPERM, "CAP_NET_RAW"),
        (errno.EADDRNOTAVAIL, "the address is not valid here"),
        (errno.EAFNOSUPPORT, "choose an IPv4 address"),
        (errno.EIO, "Choose another address with --listen"),
    ],
)
def test_an_address_that_cannot_be_bound_has_a_remedy(number: int, does: str) -> None:
    error = errors.cannot_listen(HERE, system_error(number))
    assert (error.what, error.why) == ("cannot listen on [fdaa::3]:53", os.strerror(number))
    assert does in error.do
    assert error.in_use == (number == errno.EADDRINUSE)
    assert error.code == CONFIGURATION


def test_the_error_for_a_port_in_use_says_how_to_find_its_user() -> None:
    error = errors.cannot_open("admin", HERE, system_error(errno.EADDRINUSE))
    assert error.in_use
    assert "ss -ltnp 'sport = :53'" in error.do
    assert "--admin ADDR:PORT, or none" in error.do
    assert not errors.cannot_open("admin", HERE, system_error(errno.EACCES)).in_use


def test_missing_parts_of_encrypted_upstreams_are_named() -> None:
    error = errors.cannot_forward(None, ModuleNotFoundError("no", name="httpx"))
    assert "needs httpx" in error.why
    error = errors.cannot_forward(Path("/x.pem"), system_error(errno.ENOENT))
    assert (error.what, error.why) == ("upstream_ca /x.pem", "No such file or directory")


def test_all_operator_errors_share_one_class() -> None:
    assert issubclass(ConfigurationError, OperatorError)


def test_an_error_prints_what_why_and_do_on_separate_lines() -> None:
    error = OperatorError("it broke", "one\ntwo", "Mend it")
    assert error_text(error) == "error  it broke\n  why  one\n       two\n  do   Mend it"
    assert error_text(AsJson(error)) == (
        '{"error":{"what":"it broke","why":"one\\ntwo","do":"Mend it"}}'
    )
    assert str(error) == "it broke: one\ntwo. Mend it"
