/* Writes a spool of format 1, for the tests of its migration.
 *
 *   make_spool_v1 DIR QUEUES MESSAGES SIZE
 *
 * The queues are those of user-1, user-2, ... in the vhost "/", with a password that no key opens.
 * Each has so many messages to the default exchange with the routing key "q"; a body is the number
 * of its queue and its own, and spaces up to SIZE bytes. */

#include "spool_v1.h"

/* basic.publish, and a content header without properties. */
static const uint8_t method[] = {0, 60, 0, 40, 0, 0, 0, 1, 'q', 0};
enum { HEADER_BYTES = 14, AT_BODY_SIZE = 4, STEP_MESSAGES = 1000 };

static void put_messages(struct v1_queue *q, unsigned count, size_t size)
{
    uint8_t header[HEADER_BYTES] = {0, 60};
    char *body = malloc(size + 1);
    ENSURE(body);
    big_endian_put(header + AT_BODY_SIZE, size, 8);
    struct record r = {.kind = RECORD_PUBLISH,
                       .received_at_us = UINT64_C(1700000000000000),
                       .method = {(void *)(uintptr_t)method, sizeof method},
                       .header = {header, sizeof header},
                       .body_size = size};
    for (unsigned n = 1; n <= count; n++) {
        char number[32];
        int len = snprintf(number, sizeof number, "%u %u", q->id, n);
        memset(body, ' ', size);
        memcpy(body, number, (size_t)len < size ? (size_t)len : size);
        v1_append(q, &r, (const uint8_t *)body);
        if (n % STEP_MESSAGES == 0)
            v1_step(q->spool);
    }
    free(body);
}

int main(int argc, char *argv[])
{
    if (argc != 5) {
        fprintf(stderr, "usage: make_spool_v1 DIR QUEUES MESSAGES SIZE\n");
        return 2;
    }
    unsigned queues = (unsigned)strtoul(argv[2], NULL, 10),
             messages = (unsigned)strtoul(argv[3], NULL, 10);
    struct v1 v1 = v1_open(argv[1]);
    for (unsigned id = 1; id <= queues; id++) {
        char user[32];
        struct v1_queue q = v1_begin_queue(&v1, id);
        snprintf(user, sizeof user, "user-%u", id);
        put_messages(&q, messages, strtoul(argv[4], NULL, 10));
        v1_end_queue(&q, user, "/");
    }
    v1_close(&v1);
    return 0;
}
