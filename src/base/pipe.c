#include "base/pipe.h"

#include <sys/stat.h>

bool pipe_is_at(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISFIFO(found.st_mode);
}
