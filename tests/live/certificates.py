"""Certificates made by `openssl`: an authority, and servers that it vouches for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from tests.live.hosts import command

CURVE = "ec_paramgen_curve:prime256v1"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with the authority's behind it, and its key, as PEM files."""

    certificate: Path
    key: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        """A TLS server's context."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.certificate, self.key)
        made.set_alpn_protocols(list(alpn))
        return made


class Authority:
    """Signs what is asked of it; `pem` is what clients trust."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder, self.name = folder, name
        self.pem, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        command(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            CURVE,
            "-nodes",
            "-days",
            "2",
            "-keyout",
            str(self.key),
            "-out",
            str(self.pem),
            "-subj",
            f"/CN={name}",
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        )

    def sign(self, *names: str, days: int = 2) -> Pair:
        """A certificate for *names*, such as `IP:::1` and `DNS:dns.example`.

        It has expired where *days* is negative.
        """
        stem = f"{self.name}-{len(list(self.folder.glob('*.pem')))}"
        key, request, signed, extra = (
            self.folder / f"{stem}.{kind}" for kind in ("key", "csr", "pem", "ext")
        )
        command(
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            CURVE,
            "-nodes",
            "-keyout",
            str(key),
            "-out",
            str(request),
            "-subj",
            "/CN=upstream",
        )
        extra.write_text(f"subjectAltName={','.join(names)}\nbasicConstraints=CA:FALSE\n")
        command(
            "openssl",
            "x509",
            "-req",
            "-in",
            str(request),
            "-CA",
            str(self.pem),
            "-CAkey",
            str(self.key),
            "-CAcreateserial",
            "-days",
            str(days),
            "-extfile",
            str(extra),
            "-out",
            str(signed),
        )
        return Pair(signed, key)
