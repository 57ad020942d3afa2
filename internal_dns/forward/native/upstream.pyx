# cython: language_level=3, freethreading_compatible=False
"""Questions to upstreams over UDP, natively: what upstream.h does, as Python sees it.

Objects become structs here, and the other way round. An `Asked` is alive as long as its socket knows it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

import socket
from os import strerror


cdef extern from "upstream.h" nogil:
    enum:
        POOL
        EVENTS
        READ_AT_ONCE
        ASK_DO
        ASK_CD
        ASK_EDNS
        ASK_RAW
        MOST_ZONES
        NAME_OCTETS
        SIMPLE_RRS
        REPLY_HEADER
    enum sharing:
        FRESH
        ON_THIS_HOST
        POOLED
    enum message_kind:
        NOTHING
        SIMPLE
        OTHER
        LATE
        STRAY
        GONE

    struct wire_name:
        uint16_t size
        uint8_t octets[255]

    struct guarded:
        unsigned zones, prefix_size
        wire_name zone[8]
        uint8_t prefix[16]

    struct simple:
        uint8_t rcode
        bint ad
        uint16_t answers, authorities, chain
        uint32_t start, end, lifetime
        uint32_t ttls[64]
        wire_name targets[8]

    struct question:
        socket_of *on
        question *next
        void *owner
        uint16_t id, qtype
        uint8_t bits
        bint unchecked
        wire_name name

    struct socket_of:
        int fd
        unsigned sent, waiting
        bint shared
        question *questions
        upstream *upstream

    struct upstream:
        sharing mode
        unsigned size
        void *owner
        socket_of *pool[64]

    struct hub:
        int epoll
        guarded ours
        uint8_t message[65536]

    int open_hub(hub *hub, double life)
    void set_address(upstream *upstream, const uint8_t *octets, bint is_ipv6, uint16_t port)
    int ask(hub *hub, upstream *upstream, question *asked, double now)
    void forget(question *asked)
    void retire(socket_of *of)
    void pause_question(hub *hub, question *asked)
    int resume_question(hub *hub, question *asked)
    bint has_question(const question *asked, const uint8_t *o, size_t size, bint exactly)
    message_kind take_message(hub *hub, socket_of *of, size_t *size, question **asked, simple *out)
    unsigned expire(upstream *upstream, double now)
    bint classify_reply(uint8_t *o, size_t size, const wire_name *qname, unsigned qtype, const guarded *ours,
                        simple *out)
    uint8_t lower(uint8_t octet)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data:
        void *ptr
    struct epoll_event:
        epoll_data data
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

MODES = {"fresh": FRESH, "auto": ON_THIS_HOST, "pool": POOLED}


cdef object failure():
    return OSError(errno, strerror(errno))


cdef class Asked:
    """A question that was sent. `recipient` takes what comes for it."""

    cdef question asked
    cdef Hub hub
    cdef Target target
    cdef public object recipient

    @property
    def ident(self):
        """The id that was sent."""
        return self.asked.id.to_bytes(2, "big")

    @property
    def section(self):
        """The question section that was sent, random letter case included."""
        return (self.asked.name.octets[:self.asked.name.size] + self.asked.qtype.to_bytes(2, "big") + b"\0\1")

    def pause(self):
        """Its reply awaits its check."""
        pause_question(&self.hub.hub, &self.asked)

    def resume(self):
        """It was not the reply. Raises OSError."""
        if resume_question(&self.hub.hub, &self.asked):
            raise failure()

    def close(self):
        """Expect nothing more."""
        if self.asked.on is not NULL:
            forget(&self.asked)
            self.recipient = None
            Py_DECREF(self)


cdef class Target:
    """An upstream, and the sockets to it that questions share. *on_stray* is called for what belongs to no question."""

    cdef upstream upstream
    cdef Hub hub
    cdef object on_stray

    def __init__(self, Hub hub, int family, str host, int port, str mode, unsigned size, on_stray):
        cdef bytes packed = socket.inet_pton(family, host)
        if not 0 < size <= POOL:
            raise ValueError("no such size")
        set_address(&self.upstream, packed, family == socket.AF_INET6, port)
        self.upstream.mode, self.upstream.size = <sharing><int>MODES[mode], size
        self.hub, self.on_stray = hub, on_stray
        self.upstream.owner = <void *>self

    def __dealloc__(self):
        self.retire_all()

    cdef retire_all(self):
        for place in range(POOL):
            if self.upstream.pool[place] is not NULL:
                retire(self.upstream.pool[place])
                self.upstream.pool[place] = NULL

    def close(self):
        """Share no socket any more; those with questions on them close after the last one."""
        self.retire_all()

    def expire(self, double now):
        """Retire the sockets that have expired; return how many are left."""
        return expire(&self.upstream, now)

    @property
    def pooled(self):
        """How many sockets the pool has now."""
        return sum([self.upstream.pool[place] is not NULL for place in range(POOL)])

    def ask(self, bytes name, unsigned short qtype, bint dnssec_ok, bint checking_disabled, bint edns, double now,
            bint raw=False):
        """Send a question (*name* is lower-cased); with *raw*, Python checks its reply whatever it is. Raises
        OSError."""
        cdef Asked made = Asked.__new__(Asked)
        if not 0 < len(name) <= NAME_OCTETS:
            raise ValueError("no name")
        made.hub, made.target = self.hub, self
        made.asked.owner = <void *>made
        made.asked.qtype, made.asked.name.size = qtype, <uint16_t>len(name)
        memcpy(made.asked.name.octets, <const char *>name, len(name))
        made.asked.bits = ((ASK_DO if dnssec_ok else 0) | (ASK_CD if checking_disabled else 0)
                           | (ASK_EDNS if edns else 0) | (ASK_RAW if raw else 0))
        if ask(&self.hub.hub, &self.upstream, &made.asked, now):
            raise failure()
        Py_INCREF(made)  # until `close`
        return made


cdef class Hub:
    """The sockets to all upstreams, behind one descriptor. *zones* are our apexes in lower-cased wire form, *relayed*
    makes what `read` returns of a simple reply."""

    cdef hub hub
    cdef object relayed

    def __cinit__(self):
        self.hub.epoll = -1

    def __init__(self, zones, bytes prefix, relayed, double life):
        cdef bytes zone
        if len(zones) > MOST_ZONES or not 0 < len(prefix) <= 16:
            raise ValueError("too many zones, or no prefix")
        for zone in zones:
            if not 0 < len(zone) <= NAME_OCTETS:
                raise ValueError("no zone")
            self.hub.ours.zone[self.hub.ours.zones].size = <uint16_t>len(zone)
            memcpy(self.hub.ours.zone[self.hub.ours.zones].octets, <const char *>zone, len(zone))
            self.hub.ours.zones += 1
        self.hub.ours.prefix_size = len(prefix)
        memcpy(self.hub.ours.prefix, <const char *>prefix, len(prefix))
        self.relayed = relayed
        if open_hub(&self.hub, life) < 0:
            raise failure()

    def __dealloc__(self):
        self.close()

    def fileno(self):
        """The descriptor that is readable when `read` has something to return; -1 when closed."""
        return self.hub.epoll

    def close(self):
        """Read nothing any more."""
        if self.hub.epoll >= 0:
            close(self.hub.epoll)
            self.hub.epoll = -1

    def read(self):
        """Return what has come, with the `Asked` that it is for: what is relayed of a simple reply; the octets of
        anything else with its id; False for what has its question and another id, as somebody may be guessing; None
        when nobody listens at the upstream.

        After a simple reply nothing more is read for its question.
        """
        cdef epoll_event events[EVENTS]
        cdef socket_of *of
        cdef question *asked
        cdef simple out
        cdef size_t size = 0
        cdef message_kind kind
        found = []
        cdef int count = epoll_wait(self.hub.epoll, events, EVENTS, 0)
        for number in range(count):
            of = <socket_of *>events[number].data.ptr
            # Hot path: most sockets await one reply. If there is another one, the event loop calls again.
            for _ in range(min(READ_AT_ONCE, of.waiting or 1)):
                asked = NULL
                kind = take_message(&self.hub, of, &size, &asked, &out)
                if kind == SIMPLE:
                    asked.unchecked = True
                    found.append((<Asked>asked.owner, self.made(&out)))
                elif kind == OTHER:
                    found.append((<Asked>asked.owner, self.octets(size)))
                elif kind == STRAY:
                    self.find_near_misses(of, size, found)
                elif kind == GONE:
                    asked = of.questions
                    while asked is not NULL:
                        found.append((<Asked>asked.owner, None))
                        asked = asked.next
                    break
                elif kind == NOTHING:
                    break
                if kind != LATE and not of.shared:
                    break  # Python may pause or close it
        return found

    cdef octets(self, size_t size):
        return PyBytes_FromStringAndSize(<char *>self.hub.message, size)

    cdef find_near_misses(self, socket_of *of, size_t size, list found):
        """Too late, or a guess: questions like it must not be at stake any longer."""
        cdef question *asked = of.questions
        cdef bint stray = True
        while asked is not NULL:
            if has_question(asked, self.hub.message, size, False):
                stray = False
                found.append((<Asked>asked.owner, False))
            asked = asked.next
        if not stray:
            return
        if of.shared or of.questions is NULL:
            (<Target>of.upstream.owner).on_stray()
        else:  # on a socket of its own anything else is a guess
            found.append((<Asked>of.questions.owner, False))

    cdef made(self, const simple *out):
        ttls = tuple([out.ttls[k] for k in range(out.answers + out.authorities)])
        return self.relayed(
            out.rcode, bool(out.ad), (out.answers, out.authorities),
            PyBytes_FromStringAndSize(<char *>self.hub.message + out.start, out.end - out.start), ttls, out.lifetime,
            out.chain, b"",
            tuple([
                (PyBytes_FromStringAndSize(<char *>out.targets[k].octets, out.targets[k].size), k + 1)
                for k in range(out.chain)
            ]),
        )

    def classify(self, bytes octets, bytes section):
        """Return what is relayed of a reply to the question of *section* that is simple, else None."""
        cdef question asked
        cdef simple out
        memset(&asked, 0, sizeof(asked))
        if not 4 < len(section) <= NAME_OCTETS + 4 or len(octets) > 65535:
            raise ValueError("no question, or too large")
        asked.name.size, asked.qtype = <uint16_t>(len(section) - 4), int.from_bytes(section[-4:-2], "big")
        memcpy(asked.name.octets, <const char *>section, len(section) - 4)
        memcpy(self.hub.message, <const char *>octets, len(octets))
        if len(octets) < REPLY_HEADER or not has_question(&asked, self.hub.message, len(octets), True):
            return None
        for k in range(asked.name.size):
            asked.name.octets[k] = lower(asked.name.octets[k])
        if not classify_reply(self.hub.message, len(octets), &asked.name, asked.qtype, &self.hub.ours, &out):
            return None
        return self.made(&out)
