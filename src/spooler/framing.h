#pragma once

/* Records as frames, ready to be sent. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spooler/job.h"

struct iovec;
struct store_record;

/* Bytes that a record takes with this content header, which may be another than its own. */
size_t framing_size(const struct framing *, const struct store_record *,
                    const struct iovec *header);
/* Writes them to `at`, and says where they are. What does not fit frame_max has no frames. */
struct job_record framing_write(const struct framing *, const struct store_record *,
                                const struct iovec *header, uint8_t *at);
