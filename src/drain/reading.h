#pragma once

/* Reads on in the spool, as far as there are places in the window: for all destinations but those
 * aside, for one of those from where it is, or from memory, if what comes next was just stored. */

#include <stdbool.h>

struct drain;

/* False: what is next was nacked on this channel, and is to be sent on a new one. */
bool reading_more(struct drain *);
/* Something may wait behind what was read that is not known here. */
void reading_again(struct drain *);
