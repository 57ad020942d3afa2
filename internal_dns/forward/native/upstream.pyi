from collections.abc import Callable, Iterable
from typing import Any

from internal_dns.core.relayed import Relayed

class Asked:
    recipient: Any
    @property
    def ident(self) -> bytes: ...
    @property
    def section(self) -> bytes: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...

class Target:
    def __init__(
        self,
        hub: Hub,
        family: int,
        host: str,
        port: int,
        mode: str,
        size: int,
        on_stray: Callable[[], None],
    ) -> None: ...
    @property
    def pooled(self) -> int: ...
    def close(self) -> None: ...
    def expire(self, now: float) -> int: ...
    def ask(
        self,
        name: bytes,
        qtype: int,
        dnssec_ok: bool,
        checking_disabled: bool,
        edns: bool,
        now: float,
        raw: bool = False,
    ) -> Asked: ...

class Hub:
    def __init__(
        self,
        zones: Iterable[bytes],
        prefix: bytes,
        relayed: Callable[..., Relayed],
        life: float,
    ) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def read(self) -> list[tuple[Asked, Relayed | bytes | bool | None]]: ...
    def classify(self, octets: bytes, section: bytes) -> Relayed | None: ...
