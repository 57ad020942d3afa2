"""The address of a bucket is parsed completely, and its secrets are never printed."""

from __future__ import annotations

import traceback

import pytest

from internal_dns.config import ConfigurationError, load_settings
from internal_dns.replicate.source import Source


def test_an_address_names_servers_and_a_bucket() -> None:
    found = Source.parse("nats://a.example,[2001:db8::1]:5222,192.0.2.1:1/prod?creds=/etc/x.creds")
    assert found.servers == ("a.example:4222", "[2001:db8::1]:5222", "192.0.2.1:1")
    assert (found.bucket, found.tls, found.file("creds"), found.file("ca")) == (
        "prod",
        False,
        "/etc/x.creds",
        None,
    )
    assert str(found) == "nats://a.example:4222,[2001:db8::1]:5222,192.0.2.1:1/prod"


def test_omitted_parts_have_defaults() -> None:
    found = Source.parse("nats://a")
    assert (found.servers, found.bucket) == (("a:4222",), "internal-dns")


@pytest.mark.parametrize(
    "text", ["tls://a/b", "nats://a/b?ca=/ca.pem", "nats://a/b?cert=/c.pem&key=/k.pem"]
)
def test_the_scheme_or_a_certificate_requires_tls(text: str) -> None:
    assert Source.parse(text).tls
    assert str(Source.parse(text)) == "tls://a:4222/b"


def test_the_displayed_address_has_the_options_and_no_secret() -> None:
    shown = Source.parse("tls://u:hunter2@a/b?key=/k%20x.pem&cert=/c.pem").without_secrets()
    assert shown == "tls://a:4222/b?cert=/c.pem&key=/k+x.pem"
    assert Source.parse(shown).files == (("cert", "/c.pem"), ("key", "/k x.pem"))


@pytest.mark.parametrize(
    "text", ["nats://user:hunter2@a/b", "nats://hunter2@a/b", "tls://u:hunter%32@a/b"]
)
def test_secrets_are_used_and_never_printed(text: str) -> None:
    found = Source.parse(text)
    assert "hunter2" in (found.user, found.password)
    assert "hunter" not in f"{found} {found!r} {(found,)}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "http://hunter2@a/b",
        "nats://",
        "nats:///hunter2",
        "nats://u:hunter2@a/b/c",
        "nats://u:hunter2@a:x/b",
        "nats://u:hunter2@a:99999/b",
        "nats://u:hunter2@a b/c",
        "nats://hunter2@a/b?pasword=hunter2",
        "nats://hunter2@,/b",
        "nats://hunter2@a/b?creds",
        "nats://u:hunter2@[::1/b",
    ],
)
def test_no_error_repeats_a_possible_secret(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings({"source": text}, {}, None)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    assert "--source" in str(refused.value)
