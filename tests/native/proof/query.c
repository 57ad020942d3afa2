/* read_query on every message: of any octets, with any source, destination and port, and any
 * settings. With -DSIZE=n the message has n octets, and so has the object it is in; else up to
 * MAX_QUERY + 1, in an object of that size. */
#include "__fc_builtin.h"
#include "repeat.h"

#ifdef SIZE
#define LEAST SIZE
#define MOST SIZE
#else
#define LEAST 0
#define MOST (MAX_QUERY + 1)
#endif

static struct table table;
static struct source_map maps[2];
static uint8_t octets[MOST ? MOST : 1], source[16], destination[16];
static struct query query;

int main(void)
{
    Frama_C_make_unknown((char *)octets, sizeof octets);
    Frama_C_make_unknown((char *)source, sizeof source);
    Frama_C_make_unknown((char *)destination, sizeof destination);
    Frama_C_make_unknown((char *)table.prefix, sizeof table.prefix);
    Frama_C_make_unknown((char *)table.secret, sizeof table.secret);
    Frama_C_make_unknown((char *)maps, sizeof maps);
    maps[0].length = (uint32_t)Frama_C_interval(0, 128);
    maps[1].length = (uint32_t)Frama_C_interval(0, 128);
    table.nsid_size = (uint8_t)Frama_C_interval(0, MAX_NSID);
    table.udp_limit = (uint32_t)Frama_C_interval(PLAIN_UDP_SIZE, 65507);
    table.maps = maps, table.map_count = (uint32_t)Frama_C_interval(0, 2);
    uint16_t port = (uint16_t)Frama_C_interval(0, 65535);
    read_query(&table, octets, (size_t)Frama_C_interval(LEAST, MOST), source, destination, port,
        &query);
    return 0;
}
