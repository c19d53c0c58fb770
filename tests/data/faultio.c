/* fsync and fdatasync that fail on demand, for the tests of sick disks.
 *
 * gcc -O2 -shared -fPIC -o libfaultio.so faultio.c -ldl
 * LD_PRELOAD=libfaultio.so FAULTIO_PATH=<part of a path> FAULTIO_WHEN=<a file> server …
 *
 * While the file FAULTIO_WHEN exists, a sync of any file whose path contains FAULTIO_PATH gives EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd) {
    const char *when = getenv("FAULTIO_WHEN"), *part = getenv("FAULTIO_PATH");
    char link[64], path[4096];
    if (!when || !part || access(when, F_OK) != 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static int sync_by(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return sync_by("fsync", fd); }
int fdatasync(int fd) { return sync_by("fdatasync", fd); }
