/* Everything, one JSON object a line. */

#include "output.h"
#include "print.h"
#include "select.h"

static bool print_line(struct scan *scan, void *arg, const struct item *item)
{
    (void)arg;
    print_item(scan, item, true, JSON_COMPACT);
    return true;
}

enum inspect_exit dump_run(struct inspect *inspect)
{
    struct selection selection = {.verb = "Dumped", .flags = READER_BODIES, .each = print_line};
    return select_run(inspect, &selection);
}
