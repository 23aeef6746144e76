#include "base/states.h"

#include "base/log.h"

void states_unexpected(const struct states *states, unsigned from, unsigned to)
{
    LOG_OFTEN(LOG_ERROR, "state_unexpected", LOG_T("object", states->object),
              LOG_T("from", states->names[from]), LOG_T("to", states->names[to]));
}
