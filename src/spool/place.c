#include "spool/place.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>

static bool find(const char *path, const char *name, struct stat *found)
{
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", path, name);
    return stat(file, found) == 0;
}

static struct place_file note(const char *path, const char *name)
{
    struct stat found;
    return find(path, name, &found) ? (struct place_file){found.st_dev, found.st_ino}
                                    : (struct place_file){0};
}

/* Where nobody can tell, as on a disk that fails, it is not said to be gone. */
static bool is_gone(const struct place_file *file, const char *path, const char *name)
{
    struct stat found;
    if (file->inode == 0) /* there was none */
        return false;
    if (!find(path, name, &found))
        return errno == ENOENT || errno == ENOTDIR;
    return found.st_dev != file->device || found.st_ino != file->inode;
}

void place_note(struct place *place, const char *path)
{
    *place = (struct place){.data = note(path, "data.mdb"), .lock = note(path, "lock.mdb")};
}

void place_note_checkpoint(struct place *place, const char *path)
{
    place->checkpoint = note(path, "checkpoint");
}

enum place_change place_look(const struct place *place, const char *path)
{
    if (is_gone(&place->data, path, "data.mdb"))
        return PLACE_DATA_GONE;
    if (is_gone(&place->checkpoint, path, "checkpoint"))
        return PLACE_CHECKPOINT_GONE;
    return is_gone(&place->lock, path, "lock.mdb") ? PLACE_LOCK_GONE : PLACE_AS_IT_WAS;
}
