#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "amqp/field.h"
#include "amqp/wire.h"
#include "drain/newest.h"

enum { CHANNEL = 7, FRAME_MAX = 4096 };

static const struct framing framing = {CHANNEL, FRAME_MAX, true};

static struct span span(const void *bytes, size_t len)
{
    struct slab *slab = slab_new(len + 1);
    memcpy(slab->data, bytes, len);
    struct span made = span_of(slab, slab->data, len);
    slab_unref(slab);
    return made;
}

/* basic.publish to the default exchange with key "q". */
static void make_message(struct message *m, uint16_t flags, size_t body_size)
{
    static const uint8_t method[] = {0, 60, 0, 40, 0, 0, 0, 1, 'q', 0};
    uint8_t header[32] = {0, 60};
    wire_put64(header + 4, body_size);
    wire_put16(header + 12, flags);
    size_t len = 14;
    if (flags & FIELD_EXPIRATION) {
        memcpy(header + len, "\00210", 3);
        len += 3;
    }
    message_init(m);
    m->method = span(method, sizeof method);
    m->header = span(header, len);
    m->body_size = body_size;
    if (body_size == 0)
        return;
    uint8_t *body = malloc(body_size);
    memset(body, 'b', body_size);
    m->body_one = span(body, body_size);
    m->body = &m->body_one;
    m->body_count = 1;
    free(body);
}

/* Records up to `last`, `count` of them. */
static bool add(struct newest *n, uint64_t last, unsigned count, uint16_t flags, size_t body_size)
{
    struct job *job = job_new(JOB_APPEND, 1, NULL, 0);
    for (unsigned i = 0; i < count; i++) {
        struct message m;
        make_message(&m, flags, body_size);
        job_add_message(job, RECORD_PUBLISH, &m);
    }
    job->append.last_seq = last;
    bool kept = newest_add(n, &framing, job);
    job_free(job);
    return kept;
}

static void take(struct newest *n, uint32_t max, uint64_t first, uint32_t expected,
                 size_t body_size)
{
    struct job_record *records;
    struct slab *slab;
    assert_int_equal(newest_take(n, max, &records, &slab), expected);
    for (uint32_t i = 0; i < expected; i++) {
        const struct job_record *r = &records[i];
        assert_int_equal(r->seq, first + i);
        assert_int_equal(r->kind, RECORD_PUBLISH);
        assert_int_equal(r->body_size, body_size);
        assert_int_equal(wire_get16(r->frames + 1), CHANNEL);
        assert_int_equal(r->frames[7 + r->method_len - 1], 1); /* mandatory now */
        assert_false(r->mandatory);                            /* and was not */
        assert_int_equal(r->frames_len,
                         message_framed_size(r->method_len, r->header_len, body_size, FRAME_MAX));
        assert_true(r->frames >= slab->data &&
                    r->frames + r->frames_len <= slab->data + slab->used);
        assert_true(r->destination != 0);
    }
    free(records);
    if (slab)
        slab_unref(slab);
}

static void test_in_order(void **state)
{
    (void)state;
    struct newest n = {0};
    newest_begin(&n, 0);
    assert_true(add(&n, 1, 1, 0, 10));
    assert_true(add(&n, 4, 3, 0, 10));
    assert_int_equal(n.count, 4);
    take(&n, 2, 1, 2, 10);
    assert_true(add(&n, 5, 1, 0, 10)); /* while some are out */
    take(&n, 100, 3, 3, 10);
    assert_int_equal(n.count, 0);
    assert_null(n.slab);
    assert_true(n.is_whole);
    take(&n, 100, 0, 0, 10);
    assert_true(add(&n, 9, 1, 0, 5000)); /* numbers may be missing; a body of two frames */
    take(&n, 1, 9, 1, 5000);
    newest_forget(&n);
}

static void test_all_or_nothing(void **state)
{
    (void)state;
    struct newest n = {0};
    newest_begin(&n, 0);
    uint64_t seq = 0;
    while (add(&n, seq + 1, 1, 0, 1000))
        seq++;
    assert_in_range(seq, 200, SLAB_BYTES / 1000);
    assert_false(n.is_whole);
    assert_int_equal(n.count, 0);
    assert_null(n.slab);
    newest_begin(&n, 0);
    assert_false(add(&n, 1, 1, 0, SLAB_BYTES));
    assert_false(n.is_whole);
    newest_begin(&n, 0);
    assert_true(add(&n, 5, 1, 0, 0));
    assert_false(add(&n, 6, 3, 0, 0)); /* not behind the last */
    assert_false(n.is_whole);
    newest_begin(&n, 0);
    assert_true(add(&n, 5, 1, 0, 0));
    newest_begin(&n, 0); /* the end was read again: that one with it */
    assert_int_equal(n.count, 0);
    newest_forget(&n);
}

static void test_what_was_read_is_no_news(void **state)
{
    (void)state;
    struct newest n = {0};
    newest_begin(&n, 6);
    assert_true(add(&n, 5, 2, 0, 1));
    assert_true(add(&n, 6, 1, 0, 1));
    assert_int_equal(n.count, 0);
    assert_true(add(&n, 7, 1, 0, 1));
    assert_true(add(&n, 7, 1, 0, 1));
    take(&n, 9, 7, 1, 1);
    assert_true(add(&n, 7, 1, 0, 1)); /* also when it has been taken */
    assert_int_equal(n.count, 0);
    assert_true(n.is_whole);
    newest_forget(&n);
}

static void test_what_goes_stale_is_read_from_disk(void **state)
{
    (void)state;
    struct newest n = {0};
    newest_begin(&n, 0);
    assert_true(add(&n, 1, 1, 0, 1));
    assert_false(add(&n, 2, 1, FIELD_EXPIRATION, 1));
    assert_false(n.is_whole);
    assert_int_equal(n.count, 0);
    newest_forget(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_what_was_read_is_no_news),
        cmocka_unit_test(test_what_goes_stale_is_read_from_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
