/* Where publishes go: single cases, and what must hold whatever the facts are. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "session/way.h"

/* All is well. */
#define WELL .pool = POOL_LIVE, .spools = true, .has_place = true, .disk_has_room = true
#define AWAY .pool = POOL_OFFLINE, .spools = true, .has_place = true, .disk_has_room = true
#define BACK .pool = POOL_DRAINING, .spools = true, .has_place = true, .disk_has_room = true

static void test_a_publish_that_begins(void **state)
{
    (void)state;
    static const struct {
        struct facts facts;
        enum way way;
    } cases[] = {
        {{WELL}, WAY_ON},
        {{AWAY}, WAY_ON},
        {{BACK}, WAY_ON},
        {{WELL, .memory_is_short = true}, WAY_HELD},
        {{AWAY, .memory_is_short = true}, WAY_HELD},
        /* The buffer is full. */
        {{.pool = POOL_LIVE, .spools = true, .disk_has_room = true}, WAY_BUFFER_FULL},
        {{.pool = POOL_LIVE, .spools = true, .disk_has_room = true, .queue_retains = true},
         WAY_HELD},
        {{.pool = POOL_OFFLINE, .spools = true, .disk_has_room = true, .queue_retains = true},
         WAY_BUFFER_FULL},
        {{.pool = POOL_DRAINING, .spools = true, .disk_has_room = true, .holds = true}, WAY_HELD},
        {{.pool = POOL_DRAINING, .spools = true, .disk_has_room = true}, WAY_BUFFER_FULL},
        /* The disk is: live publishes do not need it. */
        {{.pool = POOL_LIVE, .spools = true, .has_place = true}, WAY_ON},
        {{.pool = POOL_OFFLINE, .spools = true, .has_place = true}, WAY_DISK_FULL},
        {{.pool = POOL_DRAINING, .spools = true, .has_place = true}, WAY_DISK_FULL},
        /* Buffering is off. */
        {{.pool = POOL_LIVE}, WAY_ON},
        {{.pool = POOL_DRAINING}, WAY_HELD},
        {{.pool = POOL_OFFLINE}, WAY_LOST},
        /* The login has no queue yet: it may have one when what is sent now has to go there. */
        {{.pool = POOL_LIVE, .has_place = true, .queue_retains = true}, WAY_ON},
        {{.pool = POOL_LIVE, .queue_retains = true}, WAY_HELD},
        /* The client was told to leave. */
        {{WELL, .is_leaving = true}, WAY_ON},
        {{AWAY, .is_leaving = true}, WAY_ON},
        {{.pool = POOL_OFFLINE, .spools = true, .is_leaving = true}, WAY_NACKED},
        {{.pool = POOL_LIVE, .has_place = true, .is_leaving = true}, WAY_NACKED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(way_of_begin(&cases[i].facts), cases[i].way);
}

static void test_a_complete_publish(void **state)
{
    (void)state;
    static const struct {
        struct facts facts;
        enum way way;
    } cases[] = {
        {{WELL}, WAY_LIVE},
        {{WELL, .channel_retains = true, .retains = true}, WAY_LIVE},
        {{AWAY}, WAY_SPOOL},
        {{BACK}, WAY_SPOOL},
        {{BACK, .holds = true}, WAY_HELD},
        {{AWAY, .holds = true}, WAY_SPOOL},
        /* Behind older ones. */
        {{AWAY, .channel_retains = true}, WAY_HELD},
        {{BACK, .channel_retains = true}, WAY_HELD},
        {{WELL, .is_blocked = true}, WAY_SPOOL},
        {{WELL, .is_blocked = true, .channel_retains = true}, WAY_HELD},
        {{WELL, .is_doubted = true}, WAY_SPOOL},
        {{WELL, .is_doubted = true, .channel_retains = true}, WAY_SPOOL},
        {{AWAY, .retains = true}, WAY_SPOOL},
        /* It cannot be stored. */
        {{BACK, .is_direct = true, .holds = true}, WAY_LIVE},
        {{AWAY, .is_direct = true}, WAY_LIVE},
        {{WELL, .is_direct = true, .is_doubted = true}, WAY_LIVE},
        {{AWAY, .is_direct = true, .is_blocked = true}, WAY_HELD},
        {{BACK, .is_direct = true, .is_transactional = true}, WAY_LIVE},
        {{WELL, .is_direct = true, .is_leaving = true}, WAY_SPOOL},
        /* No place. */
        {{.pool = POOL_LIVE, .spools = true, .queue_retains = true}, WAY_HELD},
        {{.pool = POOL_OFFLINE, .spools = true, .queue_retains = true}, WAY_BUFFER_FULL},
        {{.pool = POOL_OFFLINE, .spools = true, .is_transactional = true}, WAY_BUFFER_FULL},
        {{WELL, .is_transactional = true, .is_doubted = true}, WAY_TRANSACTION},
        {{AWAY, .is_transactional = true}, WAY_TRANSACTION},
        {{.pool = POOL_OFFLINE, .is_transactional = true}, WAY_TRANSACTION},
        /* Buffering is off. */
        {{.pool = POOL_LIVE}, WAY_LIVE},
        {{.pool = POOL_LIVE, .is_blocked = true}, WAY_HELD},
        {{.pool = POOL_DRAINING}, WAY_HELD},
        {{.pool = POOL_OFFLINE}, WAY_LOST},
        /* And older ones are in the spool. */
        {{.pool = POOL_LIVE, .has_place = true, .is_doubted = true}, WAY_HELD},
        {{.pool = POOL_LIVE, .has_place = true, .is_doubted = true, .is_transactional = true},
         WAY_HELD},
        {{.pool = POOL_DRAINING, .has_place = true, .is_doubted = true}, WAY_HELD},
        {{.pool = POOL_OFFLINE, .has_place = true, .is_doubted = true}, WAY_LOST},
        /* The login has no queue yet. */
        {{.pool = POOL_LIVE, .has_place = true, .queue_retains = true}, WAY_LIVE},
        {{.pool = POOL_LIVE, .queue_retains = true}, WAY_HELD},
        /* The client was told to leave. */
        {{WELL, .is_leaving = true}, WAY_SPOOL},
        {{WELL, .is_leaving = true, .retains = true}, WAY_HELD},
        {{AWAY, .is_leaving = true, .retains = true}, WAY_HELD},
        {{.pool = POOL_LIVE, .spools = true, .has_place = true, .is_leaving = true}, WAY_NACKED},
        {{.pool = POOL_LIVE, .spools = true, .disk_has_room = true, .is_leaving = true},
         WAY_NACKED},
        {{.pool = POOL_LIVE, .is_leaving = true}, WAY_NACKED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(way_of_publish(&cases[i].facts), cases[i].way);
}

static struct facts facts_number(unsigned n, enum pool_state pool)
{
    return (struct facts){
        .pool = pool,
        .spools = n & 1,
        .has_place = n & 2,
        .disk_has_room = n & 4,
        .holds = n & 8,
        .queue_retains = n & 16,
        .is_leaving = n & 32,
        .retains = n & 64,
        .channel_retains = n & 128,
        .is_transactional = n & 256,
        .is_doubted = n & 512,
        .is_blocked = n & 1024,
        .memory_is_short = n & 2048,
        .is_direct = n & 4096,
    };
}

static void assert_promises(const struct facts *f)
{
    enum way way = way_of_publish(f), begin = way_of_begin(f);
    if (way == WAY_LIVE) { /* RabbitMQ is there, reads, and owes nothing for the destination */
        assert_true((f->pool == POOL_LIVE || f->is_direct) && !f->is_blocked && !f->is_leaving);
        assert_true(!f->spools || f->has_place);
        assert_true(!f->is_doubted || f->is_direct);
    }
    if (way == WAY_TRANSACTION) /* which is RabbitMQ's at once if it cannot be stored */
        assert_true(f->spools || !f->is_doubted);
    if (way == WAY_SPOOL) { /* it has a place, and overtakes nothing (P2) */
        assert_true(f->spools && f->has_place);
        assert_true(!f->channel_retains || f->is_doubted || (f->is_leaving && !f->retains));
    }
    if (way == WAY_LOST || begin == WAY_LOST)
        assert_true(!f->spools && f->pool == POOL_OFFLINE && !f->is_leaving);
    if (way == WAY_NACKED || begin == WAY_NACKED)
        assert_true(f->is_leaving);
    if (way == WAY_BUFFER_FULL || begin == WAY_BUFFER_FULL)
        assert_true(f->spools && !f->has_place && !f->holds);
    if (f->memory_is_short)
        assert_int_equal(begin, WAY_HELD);
    assert_int_not_equal(way, WAY_ON);
}

static void test_what_holds_whatever_the_facts_are(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 8192; n++)
        for (int pool = POOL_OFFLINE; pool <= POOL_LIVE; pool++) {
            struct facts facts = facts_number(n, (enum pool_state)pool);
            assert_promises(&facts);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_publish_that_begins),
        cmocka_unit_test(test_a_complete_publish),
        cmocka_unit_test(test_what_holds_whatever_the_facts_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
