/* The parts of worker.h that time and chance would hide: the token bucket, the ring when it wraps
 * and when it is full. */
#include "../../internal_dns/transport/native/worker.h"

#include "state.h"

static void test_before_the_first_catalog_nobody_is_held_to_a_bucket(struct worker *w)
{
    for (int k = 0; k < 100000; k++)
        assert(may_go_up(w, 0x18, 1000) && may_go_up(w, 0x77, 1000));
    w->bounded = true;
}

static void test_questions_of_ours_pass_a_full_bucket(struct worker *w)
{
    assert(!is_own(w, 4000) && !is_own(w, 0));
    w->own[0] = 4000;
    w->own[OWN_PORTS - 1] = 4001;
    assert(is_own(w, 4000) && is_own(w, 4001) && !is_own(w, 4002) && !is_own(w, 0));
    w->own[0] = 0;
    assert(!is_own(w, 4000));
}

static void test_a_network_may_send_up_a_burst_and_then_its_rate(struct worker *w)
{
    uint64_t now = 5000000000, burst = 0;
    while (may_go_up(w, 0x18, now))
        burst++;
    assert(burst == 16385); /* the burst, and the one that fills it */
    assert(!may_go_up(w, 0x18, now + TOKEN - 1));
    for (int second = 1; second <= 3; second++) {
        uint64_t passed = 0;
        for (uint64_t at = now; at < now + 1000000000; at += 10000) /* 100,000 a second */
            passed += may_go_up(w, 0x18, at);
        assert(passed >= 19999 && passed <= 20001);
        now += 1000000000;
    }
}

static void test_a_network_that_is_made_anew_pays_on(struct worker *w)
{
    uint64_t now = 7000000000;
    put_network(w->table, 0x20, 1);
    while (may_go_up(w, 0x20, now))
        ;
    put_network(w->table, 0x20, 5000);
    assert(!may_go_up(w, 0x20, now));
    assert(may_go_up(w, 0x20, now + TOKEN));
}

static void test_networks_do_not_pay_for_each_other(struct worker *w)
{
    put_network(w->table, 0x19, 1);
    uint64_t now = 9000000000;
    while (may_go_up(w, 0x77, now)) /* not in the catalog */
        ;
    assert(!may_go_up(w, 0x78, now) && !may_go_up(w, 0, now)); /* all those share a bucket */
    assert(may_go_up(w, 0x18, now) && may_go_up(w, 0x19, now));
}

static void test_what_goes_into_the_ring_comes_out_in_order(struct worker *w)
{
    static uint8_t octets[MAX_QUERY];
    uint64_t in = 0, out = 0;
    for (int round = 0; round < 20; round++) { /* several times round the ring, full each time */
        for (struct handed handed;; in++) {
            handed = (struct handed){.size = (uint32_t)(in * 7919 % (MAX_QUERY + 1)),
                .port = (uint16_t)in};
            memset(octets, (int)(in & 255), sizeof octets);
            if (!put_into_ring(w, &handed, octets))
                break;
        }
        assert(in - out > RING / (MAX_QUERY + 80));
        uint64_t keep = (unsigned)round % 3 * 10;
        for (const struct handed *next; in - out > keep; out++) {
            next = next_handed(w);
            assert(next && next->port == (uint16_t)out && next->size
                == out * 7919 % (MAX_QUERY + 1));
            const uint8_t *at = (const uint8_t *)(next + 1);
            assert(!next->size || (at[0] == (uint8_t)out && at[next->size - 1] == (uint8_t)out));
            done_with(w, next);
        }
    }
    while (next_handed(w))
        done_with(w, next_handed(w)), out++;
    assert(in == out && w->head == w->tail);
}

int main(void)
{
    struct worker *w = calloc(1, sizeof *w);
    w->table = make_state();
    w->random = 1;
    assert(make_worker(w));
    test_before_the_first_catalog_nobody_is_held_to_a_bucket(w);
    test_questions_of_ours_pass_a_full_bucket(w);
    test_a_network_may_send_up_a_burst_and_then_its_rate(w);
    test_a_network_that_is_made_anew_pays_on(w);
    test_networks_do_not_pay_for_each_other(w);
    test_what_goes_into_the_ring_comes_out_in_order(w);
    free_table(w->table), free(w->table);
    free_worker(w), free(w);
    return puts("ok") < 0;
}
