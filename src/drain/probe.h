#pragma once

/* Does RabbitMQ do nothing more on the drain's channel, or on the whole connection? It is frozen
 * then, or holds up who publishes. So a method is sent on the channel, behind all that was
 * published, and on the connection another channel is opened and closed again. */

#include <stdbool.h>
#include <stdint.h>

struct backlog;
struct link;

struct probe {
    uint64_t handle;
    uint64_t sent_ms;     /* 0: none is out */
    uint64_t tag;         /* the last that was published before it */
    uint64_t answered_ms; /* since when the connection is known to be well; 0: it is not */
};

enum probe_finding {
    PROBE_NONE,
    PROBE_OPEN, /* its answers are awaited */
    PROBE_CHANNEL_IS_STUCK,
    PROBE_CONNECTION_IS_STUCK,
};

void probe_init(struct probe *);
void probe_deinit(struct probe *);
/* On the link's channel, the last publish on which had this tag. Another number must be free. */
void probe_send(struct probe *, struct backlog *, const struct link *, uint64_t tag,
                uint64_t now_ms);
/* The channel has answered what was sent behind that publish, or is another one. */
void probe_end(struct probe *);
/* What stands before it was still being sent then: the time to answer begins again. */
void probe_put_off(struct probe *, uint64_t ms);
/* Either has to answer within `timeout_ms`, and the channel within `soon_ms` after the connection
 * has. */
enum probe_finding probe_finding(const struct probe *, uint32_t timeout_ms, uint32_t soon_ms,
                                 uint64_t now_ms);
