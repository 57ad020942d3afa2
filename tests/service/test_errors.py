"""Why a start failed: one error, with what, why and do, for whatever it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from internal_dns.cli.words import AsJson, Told, error_text
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
        (errno.EIO, "Choose --listen"),
    ],
)
def test_an_address_that_cannot_be_listened_on_says_what_helps(number: int, does: str) -> None:
    told = errors.cannot_listen(HERE, system_error(number))
    assert (told.what, told.why) == ("cannot listen on [fdaa::3]:53", os.strerror(number))
    assert does in told.do
    assert told.in_use == (number == errno.EADDRINUSE)
    assert told.code == CONFIGURATION


def test_a_port_for_people_that_is_taken_says_who_has_it() -> None:
    told = errors.cannot_open("admin", HERE, system_error(errno.EADDRINUSE))
    assert told.in_use
    assert "ss -ltnp 'sport = :53'" in told.do
    assert "--admin ADDR:PORT, or none" in told.do
    assert not errors.cannot_open("admin", HERE, system_error(errno.EACCES)).in_use


def test_what_encrypted_upstreams_lack_is_named() -> None:
    told = errors.cannot_forward(None, ModuleNotFoundError("no", name="httpx"))
    assert "needs httpx" in told.why
    told = errors.cannot_forward(Path("/x.pem"), system_error(errno.ENOENT))
    assert (told.what, told.why) == ("upstream_ca /x.pem", "No such file or directory")


def test_all_errors_for_operators_are_one_class() -> None:
    assert Told is OperatorError
    assert issubclass(ConfigurationError, OperatorError)


def test_an_error_has_what_why_and_do_on_lines_of_their_own() -> None:
    error = OperatorError("it broke", "one\ntwo", "Mend it")
    assert error_text(error) == "error  it broke\n  why  one\n       two\n  do   Mend it"
    assert error_text(AsJson(error)) == (
        '{"error":{"what":"it broke","why":"one\\ntwo","do":"Mend it"}}'
    )
    assert str(error) == "it broke: one\ntwo. Mend it"
