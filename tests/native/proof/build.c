/* build_reply for every query that read_query lets through, every limit, rotation and set of
 * options, into a buffer of OUT octets. The answer has TURNS addresses (UNIT octets each) that take
 * turns, AUTHORITY octets behind them, and OPTIONS octets of EDNS options; their octets are
 * arbitrary. */
#include "__fc_builtin.h"
#include "repeat.h"

enum { UNIT = 28, OPTIONS = 30, OUT = 8192, RECORDS = UNIT * TURNS + AUTHORITY };

static struct table table;
static struct {
    struct answer answer;
    uint64_t key[4];
    uint8_t octets[RECORDS + OPTIONS];
} made;
static uint8_t octets[MAX_QUERY + 1], out[OUT], source[16], cookie[8];
static struct query query;

int main(void)
{
    struct answer *a = &made.answer;
    Frama_C_make_unknown((char *)octets, sizeof octets);
    Frama_C_make_unknown((char *)source, sizeof source);
    Frama_C_make_unknown((char *)cookie, sizeof cookie);
    Frama_C_make_unknown((char *)made.octets, sizeof made.octets);
    Frama_C_make_unknown((char *)table.cookie_secret, sizeof table.cookie_secret);
    Frama_C_make_unknown((char *)table.nsid, sizeof table.nsid);
    table.nsid_size = (uint8_t)Frama_C_interval(0, MAX_NSID);
    a->node.key_at = sizeof(struct answer), a->node.key_words = 4;
    a->records = a->whole = RECORDS, a->options = OPTIONS;
    a->unit = UNIT, a->turns = TURNS, a->shown = UNIT * TURNS, a->authority = AUTHORITY;
    a->counts[0] = TURNS, a->counts[1] = AUTHORITY != 0;
    a->flags = (uint16_t)Frama_C_interval(0, 65535);
    a->names_zone = AUTHORITY != 0 && !TURNS;
    query.octets = octets, query.source = source;
    query.end = (uint32_t)Frama_C_interval(HEADER + 5, HEADER + MAX_NAME + 4);
    query.limit = (uint32_t)Frama_C_interval(PLAIN_UDP_SIZE, 65507);
    query.edns = Frama_C_interval(0, 1), query.dnssec_ok = Frama_C_interval(0, 1);
    if (query.edns) {
        query.cookie = Frama_C_interval(0, 1) ? cookie : NULL;
        query.nsid = Frama_C_interval(0, 1) && table.nsid_size;
        query.own_options = (query.cookie ? COOKIE_SIZE : 0)
            + (query.nsid ? 4u + table.nsid_size : 0);
    }
    struct moment now = {.unix_time = (uint32_t)Frama_C_interval(0, 0x7fffffff)};
    build_reply(&table, a, &query, (uint32_t)Frama_C_interval(0, 0x7fffffff), &now, out,
        sizeof out);
    return 0;
}
