#include "spool/others.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { LISTED_MAX = 8 };

static _Atomic unsigned awaiting;

void others_await(void)
{
    awaiting++;
}

void others_go_on(void)
{
    awaiting--;
}

bool others_are_awaited(void)
{
    return awaiting > 0;
}

/* ---- who they are ---- */

/* Who has the environment open holds a lock on the first byte of lock.mdb:
 * "12: POSIX  ADVISORY  READ 4321 08:01:393251 0 0". Returns who, or 0. */
static int holder_of(const char *line, const struct stat *lock_file)
{
    int pid;
    unsigned device_major, device_minor;
    unsigned long long inode, start;
    if (sscanf(line, "%*d: POSIX %*s %*s %d %x:%x:%llu %llu", &pid, &device_major, &device_minor,
               &inode, &start) != 5)
        return 0;
    unsigned major_number = major(lock_file->st_dev);
    bool is_it = inode == lock_file->st_ino && start == 0 &&
                 /* some file systems tell stat of another device, without a major number */
                 (major_number == 0 ||
                  (device_major == major_number && device_minor == minor(lock_file->st_dev)));
    return is_it && pid != getpid() ? pid : 0;
}

static bool is_stopped(int pid)
{
    char name[64], state = 0;
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *file = fopen(name, "re");
    if (!file)
        return false;
    bool is_read = fscanf(file, "%*d (%*[^)]) %c", &state) == 1;
    fclose(file);
    return is_read && (state == 'T' || state == 't');
}

static size_t add(char text[OTHERS_TEXT_MAX], size_t len, int pid)
{
    int more = snprintf(text + len, OTHERS_TEXT_MAX - len, "%s%d%s", len > 0 ? ", " : "", pid,
                        is_stopped(pid) ? " (stopped)" : "");
    return len + (size_t)more;
}

bool others_name(const char *path, int own, char text[OTHERS_TEXT_MAX])
{
    char line[4096];
    struct stat lock_file;
    snprintf(line, sizeof line, "%s/lock.mdb", path);
    FILE *file = stat(line, &lock_file) == 0 ? fopen("/proc/locks", "re") : NULL;
    unsigned count = 0;
    size_t len = 0;
    text[0] = 0;
    while (file && fgets(line, sizeof line, file)) {
        int pid = holder_of(line, &lock_file);
        if (pid > 0 && pid != own && ++count <= LISTED_MAX)
            len = add(text, len, pid);
    }
    if (count > LISTED_MAX)
        snprintf(text + len, OTHERS_TEXT_MAX - len, " and %u more", count - LISTED_MAX);
    if (file)
        fclose(file);
    return count > 0;
}
