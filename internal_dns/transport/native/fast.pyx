# cython: language_level=3, freethreading_compatible=False
"""The native UDP path as Python sees it: the table of answers to fill, and workers to start, drain and stop.

All work is done by the C core (repeat.h, table.h, worker.h). Here objects become structs, and every call but
`Worker.run` holds Python's lock, which is what makes the table's writer one at a time.
"""

cimport cython
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from os import strerror, urandom
from sys import byteorder as SYS_BYTEORDER

FAIR_QUEUES = QUEUES
MAX_WORKERS = READERS - 1
LARGEST_REPLY = OUT_SIZE
MAX_CELLS = CELLS
UNKNOWN_DEPTHS = DEPTHS
OTHER_TYPE = BY_TYPE
LARGEST_ANSWER = MAX_RECORDS
MAX_OWN_PORTS = OWN_PORTS
MOST_PARTS = MAX_PARTS


def spread(int descriptor, unsigned int flows, bint ipv6):
    """Let the source choose the socket of a SO_REUSEPORT group of FAIR_QUEUES * *flows*: its network modulo FAIR_QUEUES
    times *flows*, plus one of *flows* by its port. Raises OSError."""
    if not flows:
        raise ValueError("no flows")
    if attach_fair_queues(descriptor, flows, ipv6):
        raise OSError(errno, strerror(errno))


cdef class Table:
    """The answers that workers repeat. Names are lower-cased wire form; times are monotonic milliseconds."""

    cdef table *table
    cdef int workers

    def __cinit__(self, bytes prefix, maps, unsigned int udp_limit, unsigned long long bound):
        """*maps* are (16 octets, prefix length, network), the longest prefix first; *bound* is in octets of answers."""
        self.table = <table *>calloc(1, sizeof(table))
        if self.table is NULL or not make_table(self.table, bound):
            raise MemoryError
        secret = urandom(16)
        memcpy(self.table.secret, <const char *>secret, 16)
        memcpy(self.table.prefix, <const char *>prefix, 2)
        self.table.udp_limit = udp_limit
        self.table.maps = <source_map *>calloc(max(1, len(maps)), sizeof(source_map))
        if self.table.maps is NULL:
            raise MemoryError
        cdef bytes address
        for address, length, number in maps:
            memcpy(self.table.maps[self.table.map_count].address, <const char *>address, 16)
            self.table.maps[self.table.map_count].length = length
            self.table.maps[self.table.map_count].network = number
            self.table.map_count += 1

    def __dealloc__(self):
        if self.table is not NULL:
            free_table(self.table)
            free(self.table)

    @property
    def octets(self):
        """What all entries take."""
        return self.table.octets

    @property
    def entries(self):
        """Answers, and records of networks."""
        return self.table.entries

    @property
    def answer_octets(self):
        """What the answers alone take."""
        return self.table.answer_octets

    @property
    def evictions(self):
        """Answers that were removed to make room."""
        return self.table.evictions

    @property
    def bound(self):
        """How many octets the answers may take, from the next `put` on."""
        return self.table.bound

    @bound.setter
    def bound(self, unsigned long long octets):
        self.table.bound = octets

    @property
    def answers(self):
        """How many answers there are."""
        return self.table.answers.count

    @property
    def waiting(self):
        """Entries that are gone but may still be in a reader's hands."""
        return self.table.waiting

    def set_options(self, bytes secret, bytes nsid):
        """Say which secret (16 octets) makes server cookies, and what NSID is told, b"" for nothing. Before any worker
        is made."""
        if self.workers or len(secret) != 16 or len(nsid) > MAX_NSID:
            raise ValueError("too late, no secret, or too long an NSID")
        for at in range(2):
            self.table.cookie_secret[at] = int.from_bytes(secret[8 * at : 8 * at + 8], "little")
        memcpy(self.table.nsid, <const char *>nsid, len(nsid))
        self.table.nsid_size = len(nsid)

    def put(self, unsigned int network, bytes name, unsigned short qtype, unsigned short flags, counts,
            unsigned int unit, unsigned int turns, bytes records, sizes, bytes options, unsigned short cell,
            bint indivisible=False, unsigned int lead=0, unsigned int leading=0, parts=None):
        """Store an answer of *network*; return the octets it takes. Others are evicted until all are within the bound.

        It depends on these *parts* of the network, at most MOST_PARTS, or with None on the whole network.

        *records* are answer, authority and additional section without OPT; the first *turns* of them, of *unit* octets
        each, take turns in being first. *counts* are theirs, *options* go into OPT. *sizes* are the octets of the answer
        section in *records*, of the authority section, and of all sections, the answer's even when it is not there.
        An *indivisible* answer that does not fit leaves none of its records. The first *leading* records, of *lead*
        octets, are aliases: they stay in front of those that take turns.
        """
        cdef answer_spec answer
        fill(&answer, network, name, qtype, flags, counts, records, options, cell)
        answer.unit, answer.turns = unit, turns
        answer.shown, answer.authority, answer.whole = sizes
        answer.indivisible = indivisible
        answer.lead, answer.chain = lead, leading
        check_shape(&answer)
        cdef uint64_t[MAX_PARTS] hashes
        cdef bytes part
        if parts is not None:
            if not 0 < len(parts) <= MAX_PARTS:
                raise ValueError("no parts, or too many")
            for part in parts:
                hashes[answer.part_count] = hash_part(self.table, network, part, checked_length(part))
                answer.part_count += 1
            answer.parts = hashes
        return self.keep(&answer)

    def put_relayed(self, bytes name, unsigned short qtype, bint dnssec_ok, bint checking_disabled,
                    unsigned short flags, unsigned char extended, counts, bytes records, bytes options, ttls,
                    unsigned long long stored, unsigned long long refresh, unsigned long long expires,
                    unsigned short cell, unsigned int whole=0, unsigned int chain=0):
        """Keep an answer of an upstream's for every network's queries with RD, this DO and this CD; return its octets.

        *records* may be the first RRs only: as many as the largest reply here has room for. *whole* then says how many
        octets there are. The first *chain* RRs lead to the set that was asked for, and are not told without any of it.

        *ttls* are offsets into *records*: each TTL is sent less the seconds since *stored*. From *refresh* on the first
        query goes up to Python, and from *expires* on every query.
        """
        cdef answer_spec answer
        cdef bytes offsets = b"".join([int(at).to_bytes(2, SYS_BYTEORDER) for at in ttls])
        if any(at + 6 > len(records) for at in ttls):
            raise ValueError("a TTL outside the records")
        fill(&answer, 0, name, qtype, flags, counts, records, options, cell)
        answer.variant = RELAYED | (WITH_DO if dnssec_ok else 0) | (WITH_CD if checking_disabled else 0)
        answer.extended = extended
        answer.ttls, answer.ttl_count = <const uint16_t *><const char *>offsets, len(offsets) // 2
        answer.stored, answer.refresh, answer.expires = stored, refresh, expires
        answer.shown = answer.records
        answer.whole = max(whole, answer.records)
        answer.chain = chain
        if not expires or answer.whole > MAX_RECORDS:
            raise ValueError("without end, or too large")
        if answer.ttl_count > 65535:
            raise ValueError("too many TTLs")
        return self.keep(&answer)

    cdef keep(self, const answer_spec *answer):
        size = put_answer(self.table, answer)
        if not size:
            raise MemoryError
        return size

    def drop(self, unsigned int network, bytes name, unsigned short qtype):
        """Forget an answer of *network*; return whether it was there."""
        return remove_answer(self.table, network, qtype, 0, name, checked_length(name))

    def drop_relayed(self, bytes name, unsigned short qtype, bint dnssec_ok, bint checking_disabled):
        """Forget a relayed answer; return whether it was there."""
        cdef uint8_t variant = RELAYED | (WITH_DO if dnssec_ok else 0) | (WITH_CD if checking_disabled else 0)
        return remove_answer(self.table, 0, qtype, variant, name, checked_length(name))

    # ── what goes when something changes ──────────────────────────────────────────────────────────────────────────

    def forget(self, unsigned int network, bytes part, int most, list hot=None):
        """Forget at most *most* answers that depend on *part* of *network*, with None on the whole network; return how
        many. The (name, QTYPE) of those that were repeated are appended to *hot*."""
        cdef const uint8_t *at = NULL
        cdef uint32_t length = 0
        cdef answer *found
        cdef int forgotten = 0
        if part is not None:
            at, length = part, checked_length(part)
        while forgotten < most:
            found = find_dependent(self.table, network, at, length)
            if found is NULL:
                break
            if hot is not None and found.hits and not found.relayed:
                hot.append(name_of(&found.node))
            forget_answer(self.table, found)
            forgotten += 1
        return forgotten

    def forget_all(self, unsigned int network, int most, list hot=None):
        """Forget at most *most* answers of *network*, the oldest first; return how many. *hot* is as for `forget`."""
        cdef account *found = account_link(self.table, network)[0]
        cdef answer *oldest
        cdef int forgotten = 0
        while found is not NULL and found.oldest is not NULL and forgotten < most:
            oldest = <answer *>found.oldest
            if hot is not None and oldest.hits and not oldest.relayed:
                hot.append(name_of(found.oldest))
            forget_answer(self.table, <answer *>found.oldest)
            forgotten += 1
        return forgotten

    def clear(self, int most):
        """Forget at most *most* answers of any network; return how many."""
        cdef int forgotten = 0
        while self.table.hand is not NULL and forgotten < most:
            forget_answer(self.table, <answer *>self.table.hand.oldest)
            forgotten += 1
        return forgotten

    def gone(self):
        """How often answers were repeated that are gone, by network."""
        cdef account *at
        cdef uint32_t chain
        found = {}
        for chain in range(ACCOUNTS):
            at = self.table.accounts[chain]
            while at is not NULL:
                if at.gone:
                    found[at.number] = at.gone
                at = at.next
        return found

    def drop_account(self, unsigned int network):
        """Forget how often answers of *network*, which has none, were repeated."""
        drop_account(self.table, network)

    # ── names that are not there ──────────────────────────────────────────────────────────────────────────────

    def set_unknown(self, int depth, unsigned short flags, counts, bytes records, sizes, bytes options):
        """Say what a name of `.internal` gets that is not there and has *depth* labels below it (the last depth: or
        more). Its first record is the SOA, owned by a pointer. To be set before any worker is made."""
        cdef answer_spec answer
        if self.workers or not 1 <= depth <= DEPTHS or self.table.unknown[depth - 1] is not NULL:
            raise ValueError("too late, or no such depth")
        fill(&answer, 0, b"\0", 0, flags, counts, records, options, 0)
        answer.names_zone = True
        answer.shown, answer.authority, answer.whole = sizes
        check_shape(&answer)
        self.table.unknown[depth - 1] = make_answer(self.table, &answer)
        if self.table.unknown[depth - 1] is NULL:
            raise MemoryError

    def set_words(self, words):
        """Say which labels mean something left of an app: a name that has one goes up. Before any worker is made."""
        for word in words:
            self.add(self.table.words, sizeof(self.table.words) * 8 - 1, word)

    def set_unknown_cell(self, unsigned short qtype, unsigned short cell):
        """Say which cell counts such replies to *qtype*; BY_TYPE: to that one and all beyond."""
        self.table.unknown_cells[qtype if qtype < BY_TYPE else BY_TYPE] = cell

    def add_labels(self, unsigned int number, labels):
        """Let names under these first labels go up too, from now on."""
        cdef network *found = find_network(self.table, number)
        if found is NULL:
            raise KeyError(number)
        for label in labels:
            self.add(found.bits, found.mask, label)

    def remove_network(self, unsigned int number):
        """Forget a network: all its questions that have no answer go up."""
        cdef network *found = find_network(self.table, number)
        return found is not NULL and remove_network(self.table, number)

    cdef add(self, atomic_uint64 *bits, uint64_t mask, bytes label):
        cdef bytes whole = with_length(label)
        add_label(self.table, bits, mask, whole)

    def watch(self, unsigned int every):
        """Let workers show one in *every* of the messages they repeat or drop, by chance; 0: none."""
        self.table.watched = every

    # ── reading, as the workers do ────────────────────────────────────────────────────────────────────────────

    def answer_one(self, bytes octets, bytes source, bytes destination, unsigned int rotation, unsigned long long now=0,
                   unsigned short port=65535, size_t room=OUT_SIZE, unsigned int unix_time=0):
        """Return the reply to *octets*, b"" for silence, None for what goes up. Nothing is counted."""
        cdef query asked
        cdef moment at
        cdef answer *found
        if len(source) != 16 or len(destination) != 16:
            raise ValueError("addresses have 16 octets")
        verdict = read_query(self.table, octets, len(octets), source, destination, port, &asked)
        if verdict != PLAIN:
            return None if verdict == HAND_UP else b""
        found = find_answer(self.table, &asked, now)
        if found is NULL:
            return None
        cdef uint8_t[OUT_SIZE] out
        at.monotonic, at.unix_time = now, unix_time
        size = build_reply(self.table, found, &asked, rotation, &at, out, min(room, OUT_SIZE))
        return out[:size] if size else None

    def repeat(self, bytes octets, bytes source, bytes destination, unsigned int rotation, unsigned long long now,
               unsigned int unix_time, bint stream=False):
        """Return the reply to *octets*, over TCP if *stream*, and its cell, or None for what Python must see.

        It counts as a repeat of the answer; the caller counts the reply. The first query that finds a relayed answer past
        its refresh time gets None, whatever workers have sent up.
        """
        cdef query asked
        cdef moment at
        cdef answer *found
        cdef relayed *upstream
        cdef uint8_t[OUT_SIZE] out
        if len(source) != 16 or len(destination) != 16:
            raise ValueError("addresses have 16 octets")
        if read_query(self.table, octets, len(octets), source, destination, 65535, &asked) != PLAIN:
            return None
        if stream:
            over_tcp(&asked)
        found = find_any(self.table, &asked, now)
        if found is NULL:
            return None
        if found.relayed:
            upstream = relayed_of(found)
            if now >= upstream.refresh and not upstream.decided_again:
                upstream.decided_again = True
                return None
        at.monotonic, at.unix_time = now, unix_time
        size = build_reply(self.table, found, &asked, rotation, &at, out, OUT_SIZE)
        if not size:
            return None
        count(&found.hits)
        if found.names_zone:
            return out[:size], self.table.unknown_cells[asked.qtype if asked.qtype < BY_TYPE else BY_TYPE]
        return out[:size], found.cell

    def has(self, unsigned int network, bytes name, unsigned short qtype):
        """Whether an answer of *network* is there."""
        return find_kept(self.table, network, qtype, 0, name, checked_length(name)) is not NULL

    def hits_of(self, unsigned int network, bytes name, unsigned short qtype):
        """How often an answer of *network* was repeated; 0 when it is not there."""
        cdef answer *found = find_kept(self.table, network, qtype, 0, name, checked_length(name))
        return 0 if found is NULL else found.hits

    def relayed_hits(self, bytes name, unsigned short qtype, bint dnssec_ok, bint checking_disabled):
        """The same of a relayed answer."""
        cdef uint8_t variant = RELAYED | (WITH_DO if dnssec_ok else 0) | (WITH_CD if checking_disabled else 0)
        cdef answer *found = find_kept(self.table, 0, qtype, variant, name, checked_length(name))
        return 0 if found is NULL else found.hits

    def scan(self, unsigned long long cursor, int most, bint repeated=False):
        """Return where to go on, 0 at the end, and answers: (network, name, QTYPE, DO + 2 CD, hits); network 0 is a
        relayed one. About *most* are looked at, and between two calls the table may change: what stays is found. With
        *repeated* only answers of ours that have hits are returned."""
        cdef int seen = 0
        cdef chains *now = self.table.answers.now
        cdef chains *old = self.table.answers.old
        cdef chains *small = old if old is not NULL else now
        found = []
        while True:
            seen += 1 + list_chain(small.first[cursor & small.mask], found, repeated)
            if old is not NULL:
                seen += list_chain(now.first[cursor & small.mask], found, repeated)
                seen += list_chain(now.first[(cursor & small.mask) | (small.mask + 1)], found, repeated)
            cursor = next_cursor(cursor, small.mask)
            if not cursor or seen >= most:
                return cursor, found

    def kept(self):
        """Which answers are there: (network, name, QTYPE, DO + 2 CD); network 0 is a relayed one."""
        cursor, found = self.scan(0, 1 << 30)
        return [one[:4] for one in found]


cdef tuple name_of(const node *at):
    cdef const uint64_t *key = key_of(at)
    return (<const uint8_t *>(key + 1))[:key[0] & 255], key[0] >> 16 & 0xFFFF


cdef int list_chain(node *at, list found, bint repeated) except -1:
    cdef const uint64_t *key
    cdef int seen = 0
    while at is not NULL:
        if not repeated or (<answer *>at).hits and not (<answer *>at).relayed:
            key = key_of(at)
            found.append((
                key[0] >> 32, (<const uint8_t *>(key + 1))[:key[0] & 255], key[0] >> 16 & 0xFFFF, key[0] >> 9 & 3,
                (<answer *>at).hits,
            ))
        at = at.next
        seen += 1
    return seen


cdef class Network:
    """A network that is to be known, with room for so many first labels below `internal` that must go up."""

    cdef network *made
    cdef Table table

    def __cinit__(self, Table table, unsigned int number, unsigned int room, zones=()):
        """*zones* are the network's own, in lower-cased wire form."""
        self.table = table
        self.made = make_network(table.table, number, room, len(zones))
        if self.made is NULL:
            raise MemoryError
        for zone in zones:
            add_zone(table.table, self.made, zone, checked_length(zone))

    def __dealloc__(self):
        free(self.made)

    def add(self, labels):
        """Let names under these labels go up."""
        if self.made is NULL:
            raise ValueError("published")
        for label in labels:
            self.table.add(self.made.bits, self.made.mask, label)

    def add_everything(self, bint outside=False):
        """Let all names below `internal` go up, and with *outside*, if it has zones, all others."""
        if self.made is NULL:
            raise ValueError("published")
        add_everything(self.made, outside)

    def publish(self):
        """Make it known, in place of the one of its number. That one pays on for what it sent up."""
        if self.made is NULL:
            raise ValueError("published")
        publish_network(self.table.table, self.made)
        self.made = NULL


cdef bytes with_length(bytes label):
    if not 0 < len(label) < 64:
        raise ValueError("no label")
    return bytes((len(label),)) + label


cdef uint8_t checked_length(bytes name) except 0:
    if not 0 < len(name) < 256:
        raise ValueError("no name")
    return len(name)


cdef int fill(answer_spec *answer, uint32_t network, bytes name, uint16_t qtype, uint16_t flags, counts, bytes records,
              bytes options, uint16_t cell) except -1:
    """Fill in what all answers have. The octets stay the caller's."""
    memset(answer, 0, sizeof(answer_spec))
    answer.network, answer.name, answer.length, answer.qtype = network, name, checked_length(name), qtype
    answer.flags, answer.cell = flags, cell
    if cell >= CELLS or len(records) > MAX_RECORDS or len(options) > 65535:
        raise ValueError("no such cell, or too large")
    answer.counts[0], answer.counts[1], answer.counts[2] = counts
    answer.record_octets, answer.records = records, len(records)
    answer.option_octets, answer.options = options, len(options)
    return 0


cdef int check_shape(const answer_spec *answer) except -1:
    if answer.lead > answer.shown or answer.chain > answer.counts[0] or bool(answer.lead) != bool(answer.chain):
        raise ValueError("fewer records than lead")
    if <uint64_t>answer.lead + <uint64_t>answer.unit * answer.turns > answer.shown or answer.turns > 1 and not answer.unit:
        raise ValueError("fewer records than take turns")
    if answer.turns > 1 and answer.lead + answer.unit * answer.turns != answer.shown:
        raise ValueError("some records take turns, and others do not")
    if <uint64_t>answer.shown + answer.authority > answer.records:
        raise ValueError("sections larger than the records")
    if answer.whole != answer.records and (answer.whole < answer.records or answer.shown or not answer.indivisible):
        raise ValueError("an answer that is neither whole nor left out")
    if answer.whole > MAX_RECORDS or answer.unit > 65535 or answer.authority > 65535 or answer.lead > 65535:
        raise ValueError("too large")
    cdef const uint8_t *rest = answer.record_octets + answer.shown + answer.authority
    cdef uint32_t rest_size = answer.records - answer.shown - answer.authority
    # What may leave in part is looked at one RR after the other.
    if answer.turns < 2 and answer.whole == answer.records and not is_section(answer.record_octets, answer.shown,
                                                                              answer.counts[0]):
        raise ValueError("an answer section of other records than counted")
    if not is_section(rest, rest_size, answer.counts[2]):
        raise ValueError("an additional section of other records than counted")
    return 0


@cython.freelist(512)
cdef class Asked:
    """A query that Python is to answer. `reply_to` is what `Worker.send` needs to find the way back."""

    cdef readonly bytes octets, source, destination, reply_to
    cdef readonly int port


cdef class Repeated:
    """A query that a worker has answered, with the header of its reply; handed up only to be shown."""

    cdef readonly bytes octets, source, destination, header


cdef class Dropped:
    """A message that a worker has dropped; handed up only to be shown."""

    cdef readonly bytes octets, source, destination


cdef message_of(const handed *at):
    """Return what was handed up as an object of its kind."""
    cdef const uint8_t *octets = <const uint8_t *>(at + 1)
    cdef Asked asked
    cdef Repeated repeated
    cdef Dropped dropped
    source, destination = at.source[:16], at.destination[:16]
    if at.what == ASKED:
        asked = Asked.__new__(Asked)
        asked.octets, asked.source, asked.destination = octets[:at.size], source, destination
        asked.port = (at.port & 255) << 8 | at.port >> 8
        asked.reply_to = (<const uint8_t *>at)[:sizeof(handed)]
        return asked
    if at.what == REPEATED:
        repeated = Repeated.__new__(Repeated)
        repeated.octets, repeated.header = octets[:at.size - HEADER], octets[at.size - HEADER:at.size]
        repeated.source, repeated.destination = source, destination
        return repeated
    dropped = Dropped.__new__(Dropped)
    dropped.octets, dropped.source, dropped.destination = octets[:at.size], source, destination
    return dropped


cdef class Worker:
    """One thread's worth of the UDP path: sockets to serve, and what it hands up. `run` is the thread."""

    cdef worker *worker
    cdef Table table

    def __cinit__(self, Table table, sockets):
        """*sockets* are (descriptor, whether IPv6, the one address it serves as 16 octets or None)."""
        if table.workers == READERS - 1 or not sockets:
            raise ValueError("too many workers, or one without sockets")
        self.worker = <worker *>calloc(1, sizeof(worker))
        if self.worker is NULL:
            raise MemoryError
        self.table = table
        self.worker.table = table.table
        self.worker.reader = &table.table.readers[table.workers]
        table.workers += 1
        self.worker.random = int.from_bytes(urandom(8), "big") | 1
        self.worker.sockets = <listening *>calloc(len(sockets), sizeof(listening))
        if self.worker.sockets is NULL:
            raise MemoryError
        cdef listening *at
        cdef bytes address
        for descriptor, ipv6, address in sockets:
            at = &self.worker.sockets[self.worker.socket_count]
            at.fd, at.ipv6, at.wildcard = descriptor, ipv6, address is None
            if address is not None:
                memcpy(at.address, <const char *>address, 16)
            self.worker.socket_count += 1
        if not make_worker(self.worker):
            raise OSError(errno, strerror(errno))

    def __dealloc__(self):
        if self.worker is not NULL:
            free_worker(self.worker)
            free(self.worker)

    @property
    def up(self):
        """The eventfd that is readable when something was handed up."""
        return self.worker.up

    def run(self):
        """Serve until `stop`, without Python's lock."""
        with nogil:
            run_worker(self.worker)

    def stop(self):
        """Let `run` return once it has dealt with what it has read."""
        cdef uint64_t one = 1
        write(self.worker.stop, &one, 8)

    def bound(self):
        """Hold each network to what its bucket allows, from now on."""
        self.worker.bounded = True

    def own(self, ports):
        """Let questions from these ports pass whatever others send; only the first MAX_OWN_PORTS count."""
        padded = (list(ports) + [0] * OWN_PORTS)[:OWN_PORTS]
        for at in range(OWN_PORTS):
            self.worker.own[at] = <uint16_t>((padded[at] & 255) << 8 | padded[at] >> 8)

    def take(self, int limit):
        """Take out at most *limit* messages: a list of Asked, Repeated and Dropped, in the order in which they came."""
        cdef const handed *at
        taken = []
        while len(taken) < limit:
            at = next_handed(self.worker)
            if at is NULL:
                break
            taken.append(message_of(at))
            done_with(self.worker, at)
        return taken

    def send(self, replies):
        """Send all of (`Asked.reply_to`, octets) at once."""
        cdef bytes to, octets
        cdef Py_ssize_t size = 0
        self.worker.python_count = 0  # an exception may have left some, whose octets are gone
        for to, octets in replies:
            if len(to) != sizeof(handed):
                raise ValueError("no Asked.reply_to")
            send_reply(self.worker, <const handed *><const char *>to, octets, len(octets))
            size += 1
        if size:
            flush_python(self.worker)

    @property
    def unseen(self):
        """How many messages were to be shown, but there was no room."""
        return self.worker.counts.unseen

    def counted(self):
        """What it has counted: by name, and the replies by cell."""
        cdef counts *c = &self.worker.counts
        named = {
            "4": c.received[0], "6": c.received[1], "runt": c.dropped[<int>RUNT], "qr": c.dropped[<int>RESPONSE],
            "packet info": c.dropped[<int>NOWHERE], "flood": c.flood, "full": c.full, "send": c.send, "hits": c.hits,
        }
        return named, [c.cells[cell] for cell in range(CELLS)]
