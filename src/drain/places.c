#include "drain/places.h"

#include "drain/backlog.h"
#include "drain/drain_struct.h"
#include "peer/runtime.h"

uint32_t places_window(const struct drain *d)
{
    return search_window(&d->backlog->search, backlog_window(d->backlog));
}

size_t places_bytes_left(const struct drain *d)
{
    uint64_t most = d->backlog->rt->config->pool.window_bytes, taken = d->sent.bytes;
    return taken < most ? (size_t)(most - taken) : 0;
}

bool places_fit(const struct drain *d, const struct job_record *record)
{
    return record->frames_len <= places_bytes_left(d) || in_flight_in_window(&d->sent) == 0;
}

void places_freed(struct drain *d, uint32_t places)
{
    if (autotune_settled(&d->backlog->tuned, places))
        autotune_end_round(&d->backlog->tuned, uv_hrtime());
}

void places_note_full(struct drain *d)
{
    struct autotune *tuned = &d->backlog->tuned;
    if (autotune_full(tuned) && places_window(d) == autotune_window(tuned))
        autotune_begin_round(tuned, in_flight_in_window(&d->sent), uv_hrtime());
}
