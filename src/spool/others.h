#pragma once

/* Other processes that have the spool open: amqpbuf-inspect, mdb_copy. */

#include <stdbool.h>

enum { OTHERS_TEXT_MAX = 256 };

/* Their numbers, "1234 (stopped), 77", from /proc/locks; false if none can be seen, as those of
 * another pid namespace. `own` is a child of this process and none of them, or 0. */
bool others_name(const char *path, int own, char text[OTHERS_TEXT_MAX]);

/* Around what may have to wait for one of them. */
void others_await(void);
void others_go_on(void);
/* True in between. Any thread may ask. */
bool others_are_awaited(void);
