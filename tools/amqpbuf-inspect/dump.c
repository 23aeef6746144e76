/* Everything, one JSON object a line. */

#include "json.h"
#include "output.h"
#include "select.h"

static bool print_line(struct walk *walk, void *arg, const struct item *item)
{
    (void)arg;
    json_t *json = json_record(item, true);
    if (json)
        json_output(json, JSON_COMPACT);
    else
        walk_damage(walk, item->record->queue, item->record->seq, "its properties cannot be read");
    return true;
}

enum inspect_exit dump_run(struct inspect *inspect)
{
    struct selection selection = {.verb = "Dumped", .flags = READER_BODIES, .visit = print_line};
    return select_run(inspect, &selection);
}
