"""Read WireGuard peers from `wg show all dump` or a wg-quick .conf file.

    wg show all dump     interface  private-key  public-key  listen-port  fwmark
                         interface  public-key  preshared-key  endpoint  allowed-ips  handshake
                         rx  tx  keepalive              (the fields of a line separated by tabs)
    wg show wg0 dump     the same without the first field
    wg0.conf             # alice            ← the name: above [Peer], behind it, or in its lines;
                         [Peer]               `# Name = alice` wins; without one, the public key
                         PublicKey = …        makes the name
                         AllowedIPs = …
    alice.conf           a client's own file: the peer is its [Interface], named after the file

Comments of programs that write such files:

    ### begin alice ###        # BEGIN_PEER alice      # alice start        (and their ends)
    ### Client alice           # Client: alice (UUID or number)
    #Name# = alice             # Name: alice           # -WGP- Display name: alice
    # friendly_name=alice      # alice / alice@example.com / Updated: … / Created: …

Private and preshared keys are neither stored nor quoted, and no mail address becomes a name. A peer
that is commented out names no other peer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Interface, ip_interface
from typing import Final

from internal_dns.core.records import address_text
from internal_dns.sources import Draft, Imported, Options, SourceError, decode_text
from internal_dns.store.rows import shown

WHAT: Final = "WireGuard configuration"
WHOLE: Final = "Give the whole output of `wg show all dump`, or a whole .conf file"
PEER_SECTION: Final = "peer"
# A masked /120 does not show the peer's own address; Fly.io's gateways assign 2.
GUESSED_HOST: Final = 2
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_SECTION: Final = re.compile(r"\[([A-Za-z]+)\]\Z")
_SETTING: Final = re.compile(r"([A-Za-z]+)\s*=")
_NAMED: Final = re.compile(
    r"(?:-WGP-\s*)?(?:friendly_|display )?name\s*#?\s*[=:]\s*(.+)\Z", re.IGNORECASE
)
# `# Endpoint = …` is a disabled setting.
_NO_NAME: Final = re.compile(
    r"(?:-WGP-\s*)?[A-Za-z]\w*\s*=|-WGP-|(?:id|e-?mail|telegram|created|updated?)\b[\w ]*:"
    r"|end(?:_\w+)?\s+\S",
    re.IGNORECASE,
)
_MARK: Final = re.compile(  # of set-up scripts: `### begin alice ###`
    r"(?:begin(?:_peer|_client)?|client:?|peer:|user:)\s+(?=\S)", re.IGNORECASE
)
LONGEST_COMMENT: Final = 1_000  # characters; a longer comment is not a name
# The suffix that wg-easy adds to a name.
_CLIENT_ID: Final = re.compile(
    r"(client:\s.*\S)\s+\((?:[0-9]+|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\)\Z",
    re.IGNORECASE,
)
_STAMPED: Final = re.compile(r"(.*?)\s*/[^/]*/\s*Updated: .*")  # wg-gen-web: name / mail / dates
_DATES: Final = re.compile(r"Updated: .* / Created: ")
_MAIL: Final = re.compile(r"[<(]?[^\s<>()]+@[^\s<>()]+[)>]?")


@dataclass
class _Peer:
    """A peer as written; `line` is where it begins."""

    line: int
    key: str = ""
    comments: list[str] = field(default_factory=list)  # most likely name first
    allowed: list[str] = field(default_factory=list)
    endpoint: str = ""


@dataclass
class _Conf:
    """The content of a .conf file: the addresses of its [Interface], and its peers."""

    addresses: list[str] = field(default_factory=list)
    peers: list[_Peer] = field(default_factory=list)


def read(source: str | bytes, options: Options | None = None, *, advice: bool = True) -> Imported:
    """Return a peer per allowed IP in the prefix that is a /120 or /128; of a client's own file,
    the client; with *advice* for those who will `apply` it. Raises SourceError."""
    text = decode_text(source, WHAT)
    draft = Draft(options or Options())
    lines = [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]
    if not any(_SECTION.match(line.partition("#")[0].strip()) for line in lines):
        for peer in _of_dump(lines):
            _add(draft, peer)
        return draft.finish(advice=advice)
    conf = _of_conf(lines)
    if _is_of_client(conf, draft.options.prefix):
        _add_client(draft, conf)
    else:
        for peer in conf.peers:
            _add(draft, peer)
    return draft.finish(advice=advice)


def _is_of_client(conf: _Conf, prefix: bytes) -> bool:
    """Whether this is a client's own file: every peer has an endpoint and only routes, no address
    of its own."""

    def is_gateway(peer: _Peer) -> bool:
        interfaces = [one for item in peer.allowed if (one := _interface(item)) is not None]
        has_address = any(
            one.ip.packed.startswith(prefix) and one.network.prefixlen in (120, 128)
            for one in interfaces
        )
        return bool(peer.endpoint) and not has_address

    return bool(conf.peers) and all(map(is_gateway, conf.peers))


def _add_client(draft: Draft, conf: _Conf) -> None:
    """Add the peer of a client's own file. Raises SourceError without its address or name."""
    what, prefix = "this is a WireGuard client's own file", draft.options.prefix
    inside = [
        one.ip.packed
        for item in conf.addresses
        if (one := _interface(item)) is not None and one.ip.packed.startswith(prefix)
    ]
    if not inside:
        why = f"its [Interface] has no Address in {prefix.hex()}::/16, and its peers are gateways"
        raise SourceError(what, why, "Give the gateway's file, or its `wg show all dump`")
    if not draft.options.file:
        why = "its peer is named after the file, and standard input has no name"
        raise SourceError(what, why, "Give it as a file, such as alice.conf")
    name = draft.options.file
    draft.note("peer of a client's own file, named after the file", shown(name))
    for address in dict.fromkeys(inside):
        draft.add_peer(name, address_text(address).decode(), rename=True)


def _add(draft: Draft, peer: _Peer) -> None:
    name = _name(peer.comments)
    if not name:
        name = "peer-" + re.sub(r"[^A-Za-z0-9]", "", peer.key)[:16].lower()
        draft.note("named after the public key, because no comment names it", name)
    subject = shown(name)
    exact: list[bytes] = []
    masked: list[bytes] = []
    for item in peer.allowed:
        interface = _interface(item)
        if interface is None or not interface.ip.packed.startswith(draft.options.prefix):
            draft.note(
                f"allowed IPs left out, not in {draft.options.prefix.hex()}::/16",
                f"{subject} ({shown(item)})",
            )
        elif interface.network.prefixlen not in (120, 128):
            draft.note(
                "allowed IPs left out: a route, not one peer's /120 or /128",
                f"{subject} ({shown(item)})",
            )
        elif interface.network.prefixlen == 128 or interface.ip.packed[15]:
            exact.append(interface.ip.packed)
        else:
            masked.append(interface.ip.packed)
    if not peer.allowed:
        draft.note("left out, no allowed IPs", subject)
    for start in masked:
        if not any(address[:15] == start[:15] for address in exact):
            exact.append(start[:15] + bytes([GUESSED_HOST]))
            draft.note(
                f"address assumed: {GUESSED_HOST} in a /120 that does not show the peer's own",
                subject,
            )
    for address in dict.fromkeys(exact):
        draft.add_peer(name, address_text(address).decode(), rename=True)


def _interface(text: str) -> IPv6Interface | None:
    try:
        interface = ip_interface(text)
    except ValueError:
        return None
    return interface if isinstance(interface, IPv6Interface) and "%" not in text else None


def _name(comments: list[str]) -> str:
    """Return the name that the comments give, empty for none."""
    words = [
        comment.strip("#").strip()
        for comment in comments
        if len(comment) <= LONGEST_COMMENT and not _KEY.search(comment)
    ]
    for word in words:
        if (match := _NAMED.match(word)) and (name := _without_mail(match[1])):
            return name
    plain = (_plain_name(word) for word in words if not _NO_NAME.match(word))
    return next(filter(None, plain), "")


def _plain_name(word: str) -> str:
    """Return the name in a comment that is not marked as one."""
    if _DATES.match(word):
        return ""
    if stamped := _STAMPED.match(word):
        word = stamped[1]
    word = _CLIENT_ID.sub(r"\1", word)
    return _without_mail(_MARK.sub("", word))


def _without_mail(text: str) -> str:
    return _MAIL.sub("", text).strip(" \t/,;-")


def _of_dump(lines: list[str]) -> Iterator[_Peer]:
    """Yield the peers of a dump. Raises SourceError for a line with a wrong number of fields."""
    fields = lines[0].split("\t")
    width = len(fields)
    if width not in (4, 5):
        why = "it has no [Peer], and its first line does not have 4 or 5 fields separated by tabs"
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


def _of_conf(lines: list[str]) -> _Conf:
    """Return the content of a .conf file. Raises SourceError for a line that is not a section,
    setting or comment."""
    conf = _Conf()
    section, above = "", list[str]()  # `above`: comments that the next [Peer] may claim
    # Comments directly after a line of the section may belong to it.
    attached = blank = True
    for number, line, in_use in _in_use(_without_pairs(lines)):
        if not in_use:
            above, blank, attached = [], False, False
            continue
        body, _, comment = (part.strip() for part in line.partition("#"))
        if header := _SECTION.match(body):
            section = header[1].lower()
            if section == PEER_SECTION:
                conf.peers.append(_Peer(number, "", [*filter(None, [comment]), *reversed(above)]))
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
                raise SourceError(f"no {WHAT}", f"line {number} is not a setting", WHOLE)
            if section == PEER_SECTION:
                conf.peers[-1].comments += above if body or attached else []
                _setting(conf.peers[-1], body)
            elif section:
                name, _, value = (part.strip() for part in body.partition("="))
                conf.addresses += _listed(value) if name.lower() == "address" else []
            above = []
        blank = not (body or comment)
    if section == PEER_SECTION and attached:
        conf.peers[-1].comments += above
    for peer in conf.peers:
        _check_key(peer.key, peer.line)
    return conf


def _without_pairs(lines: list[str]) -> list[str]:
    """Return the lines with `# alice start` as `# alice`, and without `# alice end`: a pair marks
    its peer, while a lone `# front end` is a name."""
    marks = [_mark(line) for line in lines]
    known = {*marks}
    pairs = {name for name, word in known if word == "start" and (name, "end") in known}
    return [
        line
        if name not in pairs or word not in ("start", "end")
        else f"# {name}"
        if word == "start"
        else "##"
        for line, (name, word) in zip(lines, marks, strict=True)
    ]


def _mark(line: str) -> tuple[str, str]:
    """Return a comment without its last word, and that word; both empty where there is none."""
    words = line.strip("# \t").rsplit(None, 1)
    return (words[0], words[1]) if line[:1] == "#" and len(words) == 2 else ("", "")


def _in_use(lines: list[str]) -> Iterator[tuple[int, str, bool]]:
    """Yield number, line, and whether it is in use: not in a section that is commented out.

    Such a section includes the comments directly above it, and those after it up to a line in use,
    a blank line or, once its settings are complete, another comment.
    """
    switched_off: set[int] = set()
    seen: set[str] | None = None  # settings of the section that is commented out
    for index, line in enumerate(lines):
        text = line.strip()
        comment = text.lstrip("#").strip() if text.startswith("#") else None
        if comment is None:
            seen = None
        elif _SECTION.match(comment):
            seen = set()
            start = index
            while (
                start
                and start - 1 not in switched_off
                and lines[start - 1].lstrip().startswith("#")
            ):
                start -= 1
            switched_off.update(range(start, index + 1))
        elif seen is not None:
            if setting := _SETTING.match(comment):
                seen.add(setting[1].lower())
            elif seen >= {"publickey", "allowedips"}:
                seen = None
                continue
            switched_off.add(index)
    for index, line in enumerate(lines):
        yield index + 1, line, index not in switched_off


def _setting(peer: _Peer, body: str) -> None:
    setting, _, value = (part.strip() for part in body.partition("="))
    if setting.lower() == "publickey":
        peer.key = value
    elif setting.lower() == "allowedips":
        peer.allowed += _listed(value)
    elif setting.lower() == "endpoint":
        peer.endpoint = value


def _listed(value: str) -> list[str]:
    return [item for part in value.split(",") if (item := part.strip())]


def _check_key(key: str, line: int) -> None:
    if not _KEY.fullmatch(key):
        raise SourceError(
            f"no {WHAT}", f"the peer of line {line} has no public key of 44 characters", WHOLE
        )
