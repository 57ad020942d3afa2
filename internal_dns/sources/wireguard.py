"""WireGuard peers, from `wg show all dump` or a wg-quick .conf file.

    wg show all dump     interface  private-key  public-key  listen-port  fwmark                        (tabs)
                         interface  public-key  preshared-key  endpoint  allowed-ips  handshake  rx  tx  keepalive
    wg show wg0 dump     the same without the first field
    wg0.conf             # alice            ← the name: right above [Peer], behind it, or among its lines;
                         [Peer]               `# Name = alice` wins, else the public key makes one
                         PublicKey = …
                         AllowedIPs = …

Private and preshared keys are neither kept nor quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Interface, ip_interface
from typing import Final

from internal_dns.core.records import address_text
from internal_dns.sources import Draft, Imported, Options, SourceError, text_of
from internal_dns.store.rows import shown

WHAT: Final = "WireGuard configuration"
WHOLE: Final = "Give the whole output of `wg show all dump`, or a whole .conf file"
PEER_SECTION: Final = "peer"
# Where in a masked /120 the peer itself is, is not told; 2 is what Fly.io's gateways hand out.
GUESSED_HOST: Final = 2
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_SECTION: Final = re.compile(r"\[([A-Za-z]+)\]\Z")
_NAMED: Final = re.compile(r"(?:friendly_)?name\s*[=:]\s*(.+)\Z", re.IGNORECASE)
# `# Endpoint = …` is a setting switched off; it, or a key alone, may be a secret.
_NO_NAME: Final = re.compile(r"[A-Za-z]\w*\s*=|end\s+\S|.*[A-Za-z0-9+/]{43}=", re.IGNORECASE)
_MARK: Final = re.compile(
    r"(begin|client:?)\s+(?=\S)", re.IGNORECASE
)  # of set-up scripts: `### begin alice ###`


@dataclass
class _Peer:
    """A peer as written; `line` is where it starts."""

    line: int
    key: str = ""
    comments: list[str] = field(default_factory=list)  # likeliest name first
    allowed: list[str] = field(default_factory=list)


def read(source: str | bytes, options: Options | None = None) -> Imported:
    """Return a peer for each allowed IP in the prefix that is one (/120 or /128). Raises
    SourceError."""
    text = text_of(source, WHAT)
    draft = Draft(options or Options())
    lines = [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]
    conf = any(_SECTION.match(line.partition("#")[0].strip()) for line in lines)
    for peer in _of_conf(lines) if conf else _of_dump(lines):
        _add(draft, peer)
    return draft.done()


def _add(draft: Draft, peer: _Peer) -> None:
    name = _name(peer.comments)
    if not name:
        name = "peer-" + re.sub(r"[^A-Za-z0-9]", "", peer.key)[:16].lower()
        draft.note("named after the public key, no comment names it", name)
    who = shown(name)
    exact: list[bytes] = []
    masked: list[bytes] = []
    for item in peer.allowed:
        interface = _interface(item)
        if interface is None or not interface.ip.packed.startswith(draft.options.prefix):
            draft.note(
                f"allowed IPs left out, not in {draft.options.prefix.hex()}::/16",
                f"{who} ({shown(item)})",
            )
        elif interface.network.prefixlen not in (120, 128):
            draft.note(
                "allowed IPs left out: a route, not one peer's /120 or /128",
                f"{who} ({shown(item)})",
            )
        elif interface.network.prefixlen == 128 or interface.ip.packed[15]:
            exact.append(interface.ip.packed)
        else:
            masked.append(interface.ip.packed)
    if not peer.allowed:
        draft.note("left out, no allowed IPs", who)
    for start in masked:
        if not any(address[:15] == start[:15] for address in exact):
            exact.append(start[:15] + bytes([GUESSED_HOST]))
            draft.note(
                f"address guessed: the {GUESSED_HOST} in a /120 that does not tell the peer's own",
                who,
            )
    for address in dict.fromkeys(exact):
        draft.peer(name, address_text(address).decode(), rename=True)


def _interface(text: str) -> IPv6Interface | None:
    try:
        made = ip_interface(text)
    except ValueError:
        return None
    return made if isinstance(made, IPv6Interface) and "%" not in text else None


def _name(comments: list[str]) -> str:
    """Return the name that the comments give, empty for none."""
    words = [comment.strip("#").strip() for comment in comments]
    for word in words:
        if match := _NAMED.match(word):
            return match[1].strip()
    plain = (_MARK.sub("", word) for word in words if not _NO_NAME.match(word))
    return next(filter(None, plain), "")


def _of_dump(lines: list[str]) -> Iterator[_Peer]:
    """Yield the peers of a dump. Raises SourceError for a line with another number of fields."""
    fields = lines[0].split("\t")
    width = len(fields)
    if width not in (4, 5):
        why = "it has no [Peer], and its first line is not an interface of 4 or 5 fields with tabs between"
        raise SourceError(f"no {WHAT}", why, WHOLE)
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) not in (width, width + 4):
            why = f"line {number} has {len(fields)} fields, not {width} or {width + 4}"
            raise SourceError(f"no {WHAT}", why, WHOLE)
        if len(fields) == width + 4:
            key, _, _, allowed = fields[width - 4 :][:4]
            _check_key(key, number)
            yield _Peer(number, key, [], [] if allowed == "(none)" else allowed.split(","))


def _of_conf(lines: list[str]) -> Iterator[_Peer]:
    """Yield the peers of a .conf file. Raises SourceError for what is no section, setting or
    comment."""
    peers: list[_Peer] = []
    section, above = "", list[str]()  # `above`: comments that the next [Peer] may claim
    attached = blank = (
        # `attached`: the comments follow a line of the section at once, so they may be its own
        True
    )
    for number, line in enumerate(lines, 1):
        body, _, comment = (part.strip() for part in line.partition("#"))
        if header := _SECTION.match(body):
            section = header[1].lower()
            if section == PEER_SECTION:
                peers.append(_Peer(number, "", [*filter(None, [comment]), *reversed(above)]))
            elif section != "interface":
                raise SourceError(
                    f"no {WHAT}", f"line {number} is neither [Interface] nor [Peer]", WHOLE
                )
            above = []
        elif not body and comment:
            attached = attached if above else not blank
            above.append(comment)
        else:
            if body and "=" not in body:
                raise SourceError(f"no {WHAT}", f"line {number} is no setting", WHOLE)
            if section == PEER_SECTION:
                peers[-1].comments += above if body or attached else []
                _setting(peers[-1], body)
            above = []
        blank = not (body or comment)
    if section == PEER_SECTION and attached:
        peers[-1].comments += above
    for peer in peers:
        _check_key(peer.key, peer.line)
    yield from peers


def _setting(peer: _Peer, body: str) -> None:
    setting, _, value = (part.strip() for part in body.partition("="))
    if setting.lower() == "publickey":
        peer.key = value
    elif setting.lower() == "allowedips":
        peer.allowed += filter(None, (item.strip() for item in value.split(",")))


def _check_key(key: str, line: int) -> None:
    if not _KEY.fullmatch(key):
        raise SourceError(
            f"no {WHAT}", f"the peer of line {line} has no public key of 44 characters", WHOLE
        )
