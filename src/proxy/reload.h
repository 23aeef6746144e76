#pragma once

/* SIGHUP: the configuration and the certificates' files are read again. */

struct proxy;

/* Takes over all of it, or nothing if one part has a fault; one event says which. What needs a
 * restart is named in the log, and stays. */
void reload(struct proxy *);
