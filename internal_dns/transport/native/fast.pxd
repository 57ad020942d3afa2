"""What fast.pyx uses of the C core; the headers say what each thing means.

C, because the system calls' structures and macros are C, and because it must build alone for the sanitizers and the
fuzzer. Atomic fields are declared as plain ones here: Cython reads them, the headers write them. An array is declared
as a pointer to its first element, so that its size is stated in the header alone.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "worker.h" nogil:
    ctypedef uint64_t atomic_uint64 "_Atomic uint64_t"

    enum:
        ASKED
        REPEATED
        ACCOUNTS
        MAX_PARTS
        MAX_QUERY
        HEADER
        OWN_PORTS
        CELLS
        DEPTHS
        READERS
        BY_TYPE
        MAX_NSID
        MAX_RECORDS
        BATCH
        QUEUES
        OUT_SIZE
        RELAYED
        WITH_DO
        WITH_CD
    enum verdict:
        HAND_UP
        PLAIN
        RUNT
        RESPONSE
        NOWHERE

    struct node:
        node *next
        uint32_t size

    struct chains:
        uint64_t mask
        node **first

    struct map:
        chains *now
        chains *old
        uint64_t count

    struct account:
        account *next
        node *oldest
        uint64_t gone
        uint64_t entries
        uint32_t number

    struct answer:
        node node
        account *account
        uint64_t hits
        uint16_t cell
        bint names_zone
        bint relayed

    struct relayed:
        uint64_t refresh
        bint decided_again

    struct network:
        node node
        uint64_t mask
        atomic_uint64 *bits

    struct source_map:
        uint8_t *address
        uint32_t length
        uint32_t network

    struct reader:
        pass

    struct table:
        uint64_t *secret
        uint8_t *prefix
        uint32_t udp_limit
        uint64_t *cookie_secret
        uint8_t *nsid
        uint8_t nsid_size
        map answers
        map networks
        account **accounts
        account *hand
        uint64_t bound
        uint64_t answer_octets
        uint64_t evictions
        source_map *maps
        uint32_t map_count
        atomic_uint64 *words
        uint32_t watched
        answer **unknown
        uint16_t *unknown_cells
        reader *readers
        uint64_t octets
        uint64_t entries
        uint64_t waiting

    struct query:
        uint16_t qtype
        const uint64_t *key

    struct moment:
        uint64_t monotonic
        uint32_t unix_time

    struct answer_spec:
        uint32_t network
        uint16_t qtype
        uint8_t variant
        uint8_t length
        uint32_t part_count
        const uint64_t *parts
        const uint8_t *name
        uint16_t flags
        uint16_t *counts
        uint16_t cell
        uint8_t extended
        bint names_zone
        uint32_t lead
        uint32_t unit
        uint32_t turns
        uint32_t records
        uint32_t options
        uint32_t ttl_count
        uint32_t shown
        uint32_t authority
        uint32_t whole
        uint32_t chain
        bint indivisible
        const uint8_t *record_octets
        const uint8_t *option_octets
        const uint16_t *ttls
        uint64_t stored
        uint64_t refresh
        uint64_t expires

    bint make_table(table *, uint64_t bound)
    void free_table(table *)
    answer *make_answer(const table *, const answer_spec *)
    bint is_section(const uint8_t *octets, uint32_t size, uint32_t count)
    uint32_t put_answer(table *, const answer_spec *)
    bint remove_answer(table *, uint32_t network, uint16_t qtype, uint8_t variant, const uint8_t *name, uint8_t length)
    answer *find_kept(const table *, uint32_t network, uint16_t qtype, uint8_t variant, const uint8_t *name,
                      uint8_t length)
    network *make_network(const table *, uint32_t number, uint64_t labels, uint64_t zones)
    void add_zone(const table *, network *, const uint8_t *name, uint32_t length)
    void add_everything(network *, bint outside)
    network *find_network(const table *, uint32_t number)
    void publish_network(table *, network *)
    bint remove_network(table *, uint32_t number)
    const uint64_t *key_of(const node *)
    relayed *relayed_of(const answer *)
    uint64_t hash_part(const table *, uint32_t network, const uint8_t *part, uint32_t length)
    answer *find_dependent(const table *, uint32_t network, const uint8_t *part, uint32_t length)
    void forget_answer(table *, answer *)
    account **account_link(const table *, uint32_t number)
    void drop_account(table *, uint32_t number)
    uint64_t next_cursor(uint64_t cursor, uint64_t mask)
    void add_label(const table *, atomic_uint64 *bits, uint64_t mask, const uint8_t *label)
    verdict read_query(const table *, const uint8_t *octets, size_t size, const uint8_t *source,
                       const uint8_t *destination, uint16_t port, query *)
    void over_tcp(query *)
    answer *find_any(const table *, query *, uint64_t now)
    answer *find_answer(const table *, query *, uint64_t now)
    size_t build_reply(const table *, const answer *, const query *, uint32_t rotation, const moment *now, uint8_t *out,
                       size_t room)

    struct listening:
        int fd
        bint ipv6
        bint wildcard
        uint8_t *address

    struct handed:
        uint32_t size
        uint16_t port
        uint64_t what
        uint8_t *source
        uint8_t *destination

    struct counts:
        uint64_t *received
        uint64_t *dropped
        uint64_t flood
        uint64_t full
        uint64_t send
        uint64_t hits
        uint64_t unseen
        uint64_t *cells

    struct worker:
        table *table
        reader *reader
        listening *sockets
        int socket_count
        int stop
        int up
        int python_count
        uint64_t random
        counts counts
        bint bounded
        uint16_t *own

    void count(uint64_t *)
    bint make_worker(worker *)
    void free_worker(worker *)
    void run_worker(worker *)
    const handed *next_handed(worker *)
    void done_with(worker *, const handed *)
    void send_reply(worker *, const handed *, const uint8_t *octets, size_t size)
    void flush_python(worker *)
    int attach_fair_queues(int fd, uint32_t flows, bint ipv6)
