"""What fast.pyx uses of the C core; the headers say what each thing means.

C, because the system calls' structures and macros are C, and because it must build alone for the sanitizers and the
fuzzer. Atomic fields are declared as plain ones here: Cython reads them, the headers write them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "worker.h" nogil:
    ctypedef uint64_t atomic_uint64 "_Atomic uint64_t"

    enum:
        ASKED
        REPEATED
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
        const uint64_t *key

    struct map:
        uint64_t mask
        node **chains

    struct answer:
        node node
        uint64_t hits
        uint16_t cell

    struct network:
        node node
        uint64_t mask
        atomic_uint64 *bits

    struct source_map:
        uint8_t address[16]
        uint32_t length
        uint32_t network

    struct reader:
        pass

    struct table:
        uint64_t secret[2]
        uint8_t prefix[2]
        uint32_t udp_limit
        uint64_t cookie_secret[2]
        uint8_t nsid[255]
        uint8_t nsid_size
        map answers
        map networks
        source_map *maps
        uint32_t map_count
        atomic_uint64 words[16]
        uint32_t watched
        answer *unknown[3]
        uint16_t unknown_cells[257]
        reader readers[17]
        uint64_t octets
        uint64_t entries
        uint64_t waiting

    struct query:
        pass

    struct moment:
        uint64_t monotonic
        uint32_t unix_time

    struct answer_spec:
        uint32_t network
        uint16_t qtype
        uint8_t variant
        uint8_t length
        const uint8_t *name
        uint16_t flags
        uint16_t counts[3]
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

    bint make_table(table *, uint64_t answers, uint64_t networks)
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
    bint remove_node(table *, map *, const uint64_t *key, uint32_t words)
    void add_label(const table *, atomic_uint64 *bits, uint64_t mask, const uint8_t *label)
    verdict read_query(const table *, const uint8_t *octets, size_t size, const uint8_t *source,
                       const uint8_t *destination, uint16_t port, query *)
    answer *find_answer(const table *, query *, uint64_t now)
    size_t build_reply(const table *, const answer *, const query *, uint32_t rotation, const moment *now, uint8_t *out,
                       size_t room)

    struct listening:
        int fd
        bint ipv6
        bint wildcard
        uint8_t address[16]

    struct handed:
        uint32_t size
        uint16_t port
        uint64_t what
        uint8_t source[16]
        uint8_t destination[16]

    struct counts:
        uint64_t received[2]
        uint64_t dropped[5]
        uint64_t flood
        uint64_t full
        uint64_t send
        uint64_t hits
        uint64_t unseen
        uint64_t cells[1024]

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
        uint16_t own[8]

    bint make_worker(worker *)
    void free_worker(worker *)
    void run_worker(worker *)
    const handed *next_handed(worker *)
    void done_with(worker *, const handed *)
    void send_reply(worker *, const handed *, const uint8_t *octets, size_t size)
    void flush_python(worker *)
    int attach_fair_queues(int fd)
