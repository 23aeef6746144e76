#pragma once

/* Which of several publishes RabbitMQ's words point at. When it closes a channel over a message, it
 * gives the reason, not the message: an exchange that does not exist, a routing key that the user
 * may not use, a user-id that is another's, a size. A match is a suspicion and no proof. Texts as
 * of rabbit_channel and rabbit_access_control (RabbitMQ 3.8 to 4). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is remembered of a publish that was sent: a few words instead of a copy. */
struct trace {
    uint64_t exchange;    /* hash of the name */
    uint64_t routing_key; /* hash */
    uint64_t user_id;     /* hash; 0: it carries none */
    uint64_t body_size;
};

enum accused {
    ACCUSED_UNKNOWN,
    ACCUSED_EXCHANGE,
    ACCUSED_TOPIC,
    ACCUSED_USER_ID,
    ACCUSED_SIZE,
};

struct accusation {
    enum accused what;
    uint64_t value;    /* hash of the name, or the size */
    uint64_t exchange; /* hash of the name; of a topic */
};

/* `method` and `header` are payloads of a well-formed publish. */
void trace_publish(struct trace *, const uint8_t *method, size_t method_len, const uint8_t *header,
                   size_t header_len);
/* Takes the reply text of a channel.close or connection.close apart. */
struct accusation accusation_read(const char *text);
bool accusation_fits(const struct accusation *, const struct trace *);
