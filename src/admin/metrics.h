#pragma once

/* What amqpbuf(8) lists under METRICS, in Prometheus' text format, version 0.0.4:
 * https://prometheus.io/docs/instrumenting/exposition_formats/ */

#include <stddef.h>

#include "proxy/snapshot.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* The caller frees it. */
char *metrics_text(const struct snapshot *, size_t *len);
