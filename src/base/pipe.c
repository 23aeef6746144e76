#include "base/pipe.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Linux: Documentation/admin-guide/devices.txt, 1 char, 3. */
#define NULL_DEVICE makedev(1, 3)

bool pipe_is_at(const char *path)
{
    struct stat found;
    if (stat(path, &found) != 0)
        return false;
    return S_ISFIFO(found.st_mode) || (S_ISCHR(found.st_mode) && found.st_rdev != NULL_DEVICE);
}
