/* A table for the drivers here: a network 0x18 with an app `web`, answers of every shape and size, what unknown names
 * get. */
#ifndef STATE_H
#define STATE_H

#include <assert.h>
#include <stdio.h>

#include "../../internal_dns/transport/native/table.h"

static const uint8_t SOURCE[16] = {0xfd, 0xaa, 0, 0, 0, 0x18}, SERVER[16] = {0xfd, 0xaa, [15] = 3};

static inline struct said said_of(const uint8_t *name, size_t length)
{
    static const uint8_t nothing[1];
    return (struct said){.network = 0x18, .qtype = 28, .name = name, .length = (uint8_t)length, .flags = 0x8480,
                         .record_octets = nothing, .option_octets = nothing};
}

static inline void put_network(struct table *table, uint32_t number, uint64_t room)
{
    struct network *made = make_network(table, number, room);
    assert(made);
    add_label(table, made->bits, made->mask, (const uint8_t *)"\3web");
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
    static uint8_t records[3000], addresses[28 * 1000 + 40];
    static const uint16_t ttls[3] = {6, 22, 2990};
    for (size_t k = 0; k < sizeof records; k++)
        records[k] = (uint8_t)k;
    put_records(addresses, 28, 1000);
    struct table *table = calloc(1, sizeof *table);
    assert(table && make_table(table, 4096, 64));
    table->secret[0] = 1, table->secret[1] = 2;
    table->prefix[0] = 0xfd, table->prefix[1] = 0xaa;
    table->udp_limit = 8192;
    table->maps = calloc(1, sizeof *table->maps);
    table->maps[table->map_count++] = (struct source_map){.address = {[15] = 1}, .length = 128, .network = 0x18};
    put_network(table, 0x18, 10);
    add_label(table, table->words, sizeof table->words * 8 - 1, (const uint8_t *)"\2vm");
    for (int depth = 0; depth < DEPTHS; depth++) {
        struct said said = said_of((const uint8_t *)"", 1);
        said.names_zone = true, said.records = said.whole = said.authority = 60, said.counts[1] = 1, said.record_octets = records, said.options = 20;
        said.option_octets = records;
        table->unknown[depth] = make_answer(table, &said);
    }
    struct said said = said_of((const uint8_t *)"\3web\10internal", 14);
    said.record_octets = addresses, said.option_octets = records, said.counts[0] = 7, said.counts[2] = 1;
    said.records = said.whole = 28 * 7 + 28, said.shown = 28 * 7, said.unit = 28, said.turns = 7, said.options = 30;
    assert(put_answer(table, &said));
    said = said_of((const uint8_t *)"\4many\10internal", 15); /* addresses that no reply has room for */
    said.record_octets = addresses, said.counts[0] = 1000;
    said.records = said.shown = said.whole = 28 * 1000, said.unit = 28, said.turns = 1000;
    assert(put_answer(table, &said));
    said.qtype = 33, said.turns = said.unit = 0, said.counts[0] = 30, said.counts[2] = 10; /* none takes turns */
    said.shown = 28 * 30, said.records = said.whole = 28 * 40, said.record_octets = addresses;
    assert(put_answer(table, &said));
    said.qtype = 16, said.indivisible = true, said.shown = said.records = 0, said.whole = 65536; /* a list */
    said.counts[0] = 1, said.counts[2] = 0;
    assert(put_answer(table, &said));
    said = said_of((const uint8_t *)"\10internal", 10);
    said.qtype = 6, said.record_octets = addresses, said.counts[0] = 100;
    said.records = said.shown = said.whole = 2800;
    assert(put_answer(table, &said));
    for (int variant = 0; variant < 4; variant++) {
        said = said_of((const uint8_t *)"\7example\3com", 13);
        said.network = 0, said.variant = (uint8_t)(RELAYED | variant << 1), said.record_octets = records;
        said.records = said.shown = said.whole = 3000, said.ttls = ttls, said.ttl_count = 3, said.flags = 0x80a0, said.extended = 1;
        said.counts[0] = 3, said.chain = 1;
        said.stored = 1000, said.refresh = 5000, said.expires = 9000;
        assert(put_answer(table, &said));
    }
    return table;
}

#endif
