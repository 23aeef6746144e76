/* amqpbuf-ctl: what a person changes in a running amqpbuf. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/standard.h"
#include "config/spool_path.h"
#include "ctl.h"

/* Looking is amqpbuf-inspect's business: the one beside this program, or the one in PATH. */
static enum ctl_exit list(const struct ctl *ctl)
{
    char beside[4096], queue[32];
    char *arguments[9] = {"amqpbuf-inspect", "-s", (char *)(uintptr_t)ctl->spool, "list",
                          "--rejected"};
    int count = 5;
    if (ctl->queue) {
        snprintf(queue, sizeof queue, "%" PRIu64, ctl->queue);
        arguments[count++] = "--queue";
        arguments[count++] = queue;
    }
    if (ctl->json)
        arguments[count++] = "--json";
    ssize_t len = readlink("/proc/self/exe", beside, sizeof beside - sizeof "amqpbuf-inspect");
    char *slash = len > 0 ? memrchr(beside, '/', (size_t)len) : NULL;
    if (slash) {
        memcpy(slash + 1, "amqpbuf-inspect", sizeof "amqpbuf-inspect");
        execv(beside, arguments);
    }
    execvp(arguments[0], arguments);
    perror("amqpbuf-ctl: amqpbuf-inspect");
    return CTL_REFUSED;
}

/* What was said on standard output is there, or the exit status says that it is not. */
static enum ctl_exit printed(enum ctl_exit status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    perror("amqpbuf-ctl: standard output");
    return status == CTL_FINE ? CTL_REFUSED : status;
}

int main(int argc, char *argv[])
{
    struct ctl ctl;
    enum ctl_exit status;
    standard_descriptors_hold();
    if (!ctl_parse(&ctl, argc, argv, &status))
        return (int)printed(status);
    char *found = NULL;
    if (!ctl.spool)
        ctl.spool = found = spool_path_find(NULL, stderr);
    status = ctl.verb == CTL_LIST ? list(&ctl) : ctl_ask(&ctl);
    free(found);
    return (int)printed(status);
}
