/* A table for the drivers here: a network 0x18 with an app `web`, answers of every shape, what unknown names get. */
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
    put_node(table, &table->networks, &made->node);
}

static inline struct table *make_state(void)
{
    static uint8_t records[3000];
    static const uint16_t ttls[3] = {6, 22, 2996};
    for (size_t k = 0; k < sizeof records; k++)
        records[k] = (uint8_t)k;
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
        said.names_zone = true, said.records = 60, said.record_octets = records, said.options = 20;
        said.option_octets = records;
        table->unknown[depth] = make_answer(table, &said);
    }
    struct said said = said_of((const uint8_t *)"\3web\10internal", 14);
    said.record_octets = said.option_octets = records;
    said.records = 28 * 7 + 40, said.unit = 28, said.turns = 7, said.options = 30;
    assert(put_answer(table, &said));
    said = said_of((const uint8_t *)"\10internal", 10);
    said.qtype = 6, said.record_octets = records, said.records = 3000;
    assert(put_answer(table, &said));
    for (int variant = 0; variant < 4; variant++) {
        said = said_of((const uint8_t *)"\7example\3com", 13);
        said.network = 0, said.variant = (uint8_t)(RELAYED | variant << 1), said.record_octets = records;
        said.records = 3000, said.ttls = ttls, said.ttl_count = 3, said.flags = 0x80a0, said.extended = 1;
        said.stored = 1000, said.refresh = 5000, said.expires = 9000;
        assert(put_answer(table, &said));
    }
    return table;
}

#endif
