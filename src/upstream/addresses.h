#pragma once

/* The addresses of a broker's name are tried in turn, until one sends connection.start; each has
 * its share of the time that is left. */

#include "upstream/upstream_struct.h"

/* The name was looked up: connects to the first, or tells the owner if no more was asked. */
void addresses_resolved(uv_getaddrinfo_t *, int status, struct addrinfo *);
/* Connects to the one whose turn it is. */
void addresses_connect(struct upstream *);
/* The connection to it stands, or has failed. */
void addresses_connected(struct upstream *, int status);
/* False if the one that was tried was the last one. */
bool addresses_next(struct upstream *);
