/* find_unknown on every name of `.internal` up to 255 octets, well-formed or not, and any sets of
 * labels. The network is found or not (`the_network`); how the chains lead to it is chains.pml's.
 */
#include "__fc_builtin.h"
#include "repeat.h"

static struct table table;
static struct network network;
static uint64_t bits[16];
static struct answer unknown[DEPTHS];
static struct query query;

int main(void)
{
    Frama_C_make_unknown((char *)table.words, sizeof table.words);
    Frama_C_make_unknown((char *)table.secret, sizeof table.secret);
    Frama_C_make_unknown((char *)bits, sizeof bits);
    network.mask = sizeof bits * 8 - 1, network.bits = bits;
    the_network = &network;
    for (int depth = 0; depth < DEPTHS; depth++)
        table.unknown[depth] = &unknown[depth];
    Frama_C_make_unknown((char *)query.key, sizeof query.key);
    query.qtype = (uint16_t)Frama_C_interval(0, 65535);
    find_unknown(&table, &query, (uint32_t)Frama_C_interval_split(sizeof INTERNAL, MAX_NAME));
    return 0;
}
