#include "base/standard.h"

#include <fcntl.h>
#include <unistd.h>

void standard_descriptors_hold(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0) /* the lowest number that is free is the one that is given */
            open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}
