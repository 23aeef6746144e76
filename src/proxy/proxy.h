#pragma once

/* The proxy: one loop, its clients, pools, queues and the spooler, and their start and end. */

#include "proxy/proxy_struct.h"

/* Runs until it is told to end; `sources` are read again on SIGHUP. Returns the exit status. */
int proxy_run(struct config *config, const struct config_sources *sources,
              const struct proxy_side *side);
