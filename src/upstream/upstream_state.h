#pragma once

#include "upstream/upstream_struct.h"

/* docs/states.md */
void upstream_move(struct upstream *, enum upstream_state);
