#include "spool/home.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"

enum { LOCK_TRIES = 10 };

enum status home_prepare(const char *path, struct failure *failure)
{
    struct stat st;
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return failure_set(failure, STATUS_IO, "cannot make the directory %s: %s", path,
                           strerror(errno));
    if (stat(path, &st) != 0)
        return failure_set(failure, STATUS_IO, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return failure_set(failure, STATUS_INVALID, "%s is not a directory", path);
    /* Root too: its files would lock the owner out, who could lay links for it to write through. */
    if (st.st_uid != geteuid())
        return failure_set(failure, STATUS_PERMISSION,
                           "%s belongs to user %u: start amqpbuf as that user, or mend it with: "
                           "chown -R %u:%u %s",
                           path, st.st_uid, geteuid(), getegid(), path);
    if (st.st_mode & 077)
        return failure_set(failure, STATUS_PERMISSION,
                           "%s is open to others; mend it with: chmod 700 %s", path, path);
    return STATUS_OK;
}

/* The names of the files are on disk, too: without this a power cut could take the spool away. */
static int sync_opened(int fd, int (*sync)(int fd))
{
    int error = fd < 0 || sync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static enum status synced(int error, const char *path, struct failure *failure)
{
    return error ? failure_set(failure, STATUS_IO, "cannot sync %s: %s", path, strerror(error))
                 : STATUS_OK;
}

static int sync_directory(const char *path)
{
    return sync_opened(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fsync);
}

enum status home_sync_parent(const char *file, struct failure *failure)
{
    char *copy = strdup(file);
    ENSURE(copy);
    int error = sync_directory(dirname(copy));
    free(copy);
    /* It may be searched and not read, so it cannot be opened: then all of the file system. */
    if (error == EACCES)
        error = sync_opened(open(file, O_RDONLY | O_CLOEXEC), syncfs);
    return synced(error, file, failure);
}

enum status home_sync(const char *path, struct failure *failure)
{
    enum status status = synced(sync_directory(path), path, failure);
    return status == STATUS_OK ? home_sync_parent(path, failure) : status;
}

/* ---- the lock ---- */

/* amqpbuf-inspect holds the directory's lock for a moment to see whether somebody has it. */
static bool try_lock(int fd)
{
    const struct timespec moment = {.tv_nsec = 10 * 1000 * 1000};
    for (unsigned tries = 0; tries < LOCK_TRIES; tries++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return true;
        nanosleep(&moment, NULL);
    }
    return false;
}

static enum status lock_one(int *fd, const char *name, int flags, const char *path,
                            struct failure *failure)
{
    *fd = open(name, flags | O_CLOEXEC, 0600);
    if (*fd < 0)
        return failure_set(failure,
                           errno == EROFS || errno == EACCES ? STATUS_PERMISSION : STATUS_IO,
                           "%s: %s", name, strerror(errno));
    if (try_lock(*fd))
        return STATUS_OK;
    return failure_set(failure, STATUS_IN_USE, "%s is in use by another amqpbuf", path);
}

enum status home_lock(struct home_lock *lock, const char *path, struct failure *failure)
{
    char name[4096];
    snprintf(name, sizeof name, "%s/lock", path);
    *lock = HOME_LOCK_NONE;
    enum status status = lock_one(&lock->directory, path, O_RDONLY | O_DIRECTORY, path, failure);
    return status == STATUS_OK
               ? lock_one(&lock->file, name, O_RDWR | O_CREAT | O_NOFOLLOW, path, failure)
               : status;
}

void home_unlock(struct home_lock *lock)
{
    if (lock->file >= 0)
        close(lock->file);
    if (lock->directory >= 0)
        close(lock->directory);
    *lock = HOME_LOCK_NONE;
}

bool home_is_locked(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_locked = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    return is_locked;
}
