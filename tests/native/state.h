/* A table for the drivers here: a network 0x18 with an app `web`, answers of every shape and size, what unknown names
 * get. */
#ifndef STATE_H
#define STATE_H

#include <assert.h>
#include <stdio.h>

#include "../../internal_dns/transport/native/table.h"

static const uint8_t SOURCE[16] = {0xfd, 0xaa, 0, 0, 0, 0x18}, SERVER[16] = {0xfd, 0xaa, [15] = 3};

static inline struct answer_spec spec_of(const uint8_t *name, size_t length)
{
    static const uint8_t nothing[1];
    return (struct answer_spec){.network = 0x18, .qtype = 28, .name = name, .length = (uint8_t)length, .flags = 0x8480,
                         .record_octets = nothing, .option_octets = nothing};
}

static inline void put_network(struct table *table, uint32_t number, uint64_t room)
{
    struct network *made = make_network(table, number, room, 0);
    assert(made);
    add_label(table, made->bits, made->mask, (const uint8_t *)"\3web");
    publish_network(table, made);
}

/* A network with a zone of its own, which some relayed answers may lie in. */
static inline void put_zoned(struct table *table, uint32_t number)
{
    struct network *made = make_network(table, number, 10, 1);
    assert(made && made->zones);
    add_zone(table, made, (const uint8_t *)"\4corp\3com", 10);
    publish_network(table, made);
}

/* Fill *out* with *count* RRs of *size* octets, each owned by a pointer to the question. */
static inline void put_records(uint8_t *out, size_t size, unsigned count)
{
    for (unsigned k = 0; k < count; k++, out += size) {
        put_two(put_two(put_two(out, 0xc00c), 28), 1);
        put_two(put_two(out + 6, 0), 5);
        put_two(out + 10, (uint32_t)size - 12);
        memset(out + 12, (int)k, size - 12);
    }
}

static inline struct table *make_state(void)
{
    static uint8_t records[3000], addresses[28 * 1000 + 40], aliased[30 + 28 * 60];
    static const uint16_t ttls[3] = {6, 22, 2990};
    for (size_t k = 0; k < sizeof records; k++)
        records[k] = (uint8_t)k;
    put_records(addresses, 28, 1000);
    struct table *table = calloc(1, sizeof *table);
    assert(table && make_table(table, (uint64_t)1 << 40));
    table->secret[0] = 1, table->secret[1] = 2;
    table->prefix[0] = 0xfd, table->prefix[1] = 0xaa;
    table->udp_limit = 8192;
    table->maps = calloc(1, sizeof *table->maps);
    table->maps[table->map_count++] = (struct source_map){.address = {[15] = 1}, .length = 128, .network = 0x18};
    put_network(table, 0x18, 10);
    put_zoned(table, 0x19);
    add_label(table, table->words, sizeof table->words * 8 - 1, (const uint8_t *)"\2vm");
    for (int depth = 0; depth < DEPTHS; depth++) {
        struct answer_spec spec = spec_of((const uint8_t *)"", 1);
        spec.names_zone = true, spec.records = spec.whole = spec.authority = 60, spec.counts[1] = 1, spec.record_octets = records, spec.options = 20;
        spec.option_octets = records;
        table->unknown[depth] = make_answer(table, &spec);
    }
    struct answer_spec spec = spec_of((const uint8_t *)"\3web\10internal", 14);
    spec.record_octets = addresses, spec.option_octets = records, spec.counts[0] = 7, spec.counts[2] = 1;
    spec.records = spec.whole = 28 * 7 + 28, spec.shown = 28 * 7, spec.unit = 28, spec.turns = 7, spec.options = 30;
    assert(put_answer(table, &spec));
    /* Behind an alias of 30 octets: addresses in turn, none in turn, a list that is not here. */
    put_records(aliased, 30, 1), put_records(aliased + 30, 28, 60);
    spec.qtype = 1, spec.record_octets = aliased, spec.lead = 30, spec.chain = 1, spec.counts[0] = 8;
    spec.records = spec.whole = 30 + 28 * 7 + 28, spec.shown = 30 + 28 * 7;
    assert(put_answer(table, &spec));
    spec.qtype = 255, spec.turns = spec.unit = 0, spec.counts[0] = 41, spec.counts[2] = 10;
    spec.shown = 30 + 28 * 40, spec.records = spec.whole = 30 + 28 * 50;
    assert(put_answer(table, &spec));
    spec.qtype = 16, spec.indivisible = true, spec.shown = spec.records = spec.lead = spec.chain = 0, spec.whole = 9000;
    spec.counts[0] = 2, spec.counts[2] = 0;
    assert(put_answer(table, &spec));
    spec = spec_of((const uint8_t *)"\4many\10internal", 15); /* addresses that no reply has room for */
    spec.record_octets = addresses, spec.counts[0] = 1000;
    spec.records = spec.shown = spec.whole = 28 * 1000, spec.unit = 28, spec.turns = 1000;
    assert(put_answer(table, &spec));
    spec.qtype = 33, spec.turns = spec.unit = 0, spec.counts[0] = 30, spec.counts[2] = 10; /* none takes turns */
    spec.shown = 28 * 30, spec.records = spec.whole = 28 * 40, spec.record_octets = addresses;
    assert(put_answer(table, &spec));
    spec.qtype = 16, spec.indivisible = true, spec.shown = spec.records = 0, spec.whole = 65536; /* a list */
    spec.counts[0] = 1, spec.counts[2] = 0;
    assert(put_answer(table, &spec));
    spec = spec_of((const uint8_t *)"\10internal", 10);
    spec.qtype = 6, spec.record_octets = addresses, spec.counts[0] = 100;
    spec.records = spec.shown = spec.whole = 2800;
    assert(put_answer(table, &spec));
    for (int variant = 0; variant < 4; variant++) {
        spec = spec_of((const uint8_t *)"\7example\3com", 13);
        spec.network = 0, spec.variant = (uint8_t)(RELAYED | variant << 1), spec.record_octets = records;
        spec.records = spec.shown = spec.whole = 3000, spec.ttls = ttls, spec.ttl_count = 3, spec.flags = 0x80a0, spec.extended = 1;
        spec.counts[0] = 3, spec.chain = variant != 0;
        spec.stored = 1000, spec.refresh = 5000, spec.expires = 9000;
        assert(put_answer(table, &spec));
    }
    return table;
}

#endif
