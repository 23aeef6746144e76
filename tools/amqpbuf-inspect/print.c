#include "print.h"

#include <string.h>

#include "output.h"
#include "json/json.h"

static bool on_bytes(void *arg, const void *bytes, size_t len)
{
    (void)arg;
    return output_bytes(bytes, len);
}

void print_json(json_t *json, size_t flags)
{
    json_write(json, flags, on_bytes, NULL);
}

void print_item(struct scan *scan, const struct item *item, bool body, size_t flags)
{
    json_t *json =
        json_record(item->queue->user, item->queue->vhost, item->record, item->routing, body);
    if (json)
        print_json(json, flags);
    else
        scan_damage(scan, item->record->queue, item->record->seq, "its properties cannot be read");
}
