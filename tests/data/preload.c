/* A sick disk, a wrong clock and a silent name server for one process, for the tests of real faults.
 *
 * gcc -O2 -shared -fPIC -o libpreload.so preload.c -ldl
 * LD_PRELOAD=libpreload.so FAULT_CTL=<a file of 4096 bytes> FAULT_PATH=<part of a path> server …
 *
 * The file holds numbers of 64 bits, little endian, which may change at any time. Of files whose path contains FAULT_PATH:
 *   0  each sync fails with this errno
 *   1  each sync takes so many microseconds longer
 *   2  the next write stops after so many thousandths of its bytes, and the process dies by SIGKILL
 *   5  each write fails with this errno
 *   6  each read fails with this errno
 *   7  each rename fails with this errno
 *   8  each removal fails with this errno
 *   9  each open takes so many microseconds longer
 * and of the whole process:
 *   3  the wall clock is so many seconds ahead
 *   4  the name server is silent: a lookup of a name that ends in .test, which else stands for 127.0.0.1, takes 10 s
 *      and fails
 *
 * With FAULT_DURABLE=<a directory> it keeps there what is durable of the files below FAULT_ROOT, by the letter of POSIX: of
 * a file, named f<inode>-<its time of birth>, the bytes that a sync followed, and of a directory, d<inode>-<…>, the names
 * that it had when it was synced itself. What a failed sync covered counts as written and as not durable, since the
 * kernel takes its pages for clean from then on. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SYNC_ERRNO, SYNC_US, TORN, CLOCK_S, NAMES_SILENT, WRITE_ERRNO, READ_ERRNO, RENAME_ERRNO, UNLINK_ERRNO, OPEN_US };

static int64_t healthy[10];
static volatile int64_t *fault = healthy;
static const char *part, *root, *durable;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_CTL");
    part = getenv("FAULT_PATH");
    root = getenv("FAULT_ROOT");
    durable = getenv("FAULT_DURABLE");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd < 0)
        return;
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        fault = page;
    close(fd);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether this is part of what leads to an open file, with this behind it. */
static int leads_by(int fd, const char *some, const char *end) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = some ? readlink(link, path, sizeof path - 2) : 0;
    if (length <= 0)
        return 0;
    strcpy(path + length, end);
    return strstr(path, some) != NULL;
}
static int is_ours(int fd) { return leads_by(fd, part, ""); }

/* What was written to a file and not synced since: the lowest size that it was cut to, and ranges. */
struct range {
    off_t from, to;
};
struct file {
    char key[64];
    off_t cut;
    size_t count, room;
    struct range *ranges;
    struct file *next;
};
static struct file *files;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Whether this file is looked at, and its name among what is durable. An inode's number alone is used again. */
static int key_of(int fd, char *key, mode_t *mode) {
    struct statx found;
    if (!durable || !leads_by(fd, root, "/") || statx(fd, "", AT_EMPTY_PATH, STATX_ALL, &found))
        return 0;
    *mode = found.stx_mode;
    snprintf(key, 64, "%c%llu-%lld.%09u", S_ISDIR(found.stx_mode) ? 'd' : 'f', (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    return 1;
}

/* By its key; with the lock held. */
static struct file *file_of(const char *key) {
    struct file *file;
    for (file = files; file && strcmp(file->key, key); file = file->next)
        ;
    if (!file && (file = calloc(1, sizeof *file))) {
        strcpy(file->key, key);
        file->cut = INT64_MAX;
        file->next = files;
        files = file;
    }
    return file ? file : (abort(), file);
}

static void wrote(int fd, off_t from, ssize_t bytes) {
    char key[64];
    mode_t mode;
    if (bytes <= 0 || !key_of(fd, key, &mode))
        return;
    pthread_mutex_lock(&lock);
    struct file *file = file_of(key);
    struct range *last = file->count ? &file->ranges[file->count - 1] : NULL;
    if (last && last->to == from) {
        last->to += bytes;
    } else {
        if (file->count == file->room) {
            file->room = file->room ? 2 * file->room : 16;
            file->ranges = realloc(file->ranges, file->room * sizeof *file->ranges);
        }
        file->ranges[file->count++] = (struct range){from, from + bytes};
    }
    pthread_mutex_unlock(&lock);
}

static int shadow(const char *key, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", durable, key);
    return open(path, flags | O_CLOEXEC, 0600);
}

static void keep_names(int fd, const char *key) {
    char path[4096], fresh[4128];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *names = opendir(path);
    snprintf(path, sizeof path, "%s/%s", durable, key);
    snprintf(fresh, sizeof fresh, "%s.%d", path, gettid());
    FILE *out = fopen(fresh, "we");
    if (!names || !out)
        abort();
    for (struct dirent *entry; (entry = readdir(names));) {
        int inner = openat(dirfd(names), entry->d_name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        char of[64];
        mode_t mode;
        if (entry->d_name[0] != '.' && inner >= 0 && key_of(inner, of, &mode))
            fprintf(out, "%s %s\n", of, entry->d_name);
        if (inner >= 0)
            close(inner);
    }
    closedir(names);
    if (fclose(out) || rename(fresh, path))
        abort();
}

/* A sync that has begun: what it covers. What is written meanwhile is for the next one. */
static struct file begin_sync(int fd) {
    struct file covered = {.cut = INT64_MAX};
    mode_t mode;
    if (key_of(fd, covered.key, &mode) && !S_ISDIR(mode)) {
        pthread_mutex_lock(&lock);
        struct file *file = file_of(covered.key), *next = file->next;
        covered = *file;
        *file = (struct file){.cut = INT64_MAX, .next = next};
        strcpy(file->key, covered.key);
        pthread_mutex_unlock(&lock);
    }
    return covered;
}

static int end_sync(int fd, struct file covered, int result) {
    struct stat now;
    if (covered.key[0] == 'd' && !result) {
        keep_names(fd, covered.key);
    } else if (covered.key[0] == 'f' && !result && !fstat(fd, &now)) {
        char link[64], block[1 << 16];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int in = open(link, O_RDONLY | O_CLOEXEC), out = shadow(covered.key, O_WRONLY | O_CREAT);
        if (in < 0 || out < 0)
            abort();
        if (covered.cut != INT64_MAX && REAL(ftruncate64)(out, covered.cut))
            abort();
        for (size_t n = 0; n < covered.count; n++) {
            off_t at = covered.ranges[n].from;
            while (at < covered.ranges[n].to) {
                size_t length = covered.ranges[n].to - at;
                ssize_t bytes = pread(in, block, length < sizeof block ? length : sizeof block, at);
                if (bytes <= 0)
                    break;
                if (REAL(pwrite64)(out, block, bytes, at) != bytes)
                    abort();
                at += bytes;
            }
        }
        if (REAL(ftruncate64)(out, now.st_size))
            abort();
        close(in);
        close(out);
    }
    free(covered.ranges);
    return result;
}

/* Whether this sync fails; it has waited by then. */
static int sync_fails(int fd) {
    if ((!fault[SYNC_US] && !fault[SYNC_ERRNO]) || !is_ours(fd))
        return 0;
    if (fault[SYNC_US])
        usleep(fault[SYNC_US]);
    errno = fault[SYNC_ERRNO];
    return errno != 0;
}

int fsync(int fd) {
    struct file covered = begin_sync(fd);
    return end_sync(fd, covered, sync_fails(fd) ? -1 : REAL(fsync)(fd));
}
int fdatasync(int fd) {
    struct file covered = begin_sync(fd);
    return end_sync(fd, covered, sync_fails(fd) ? -1 : REAL(fdatasync)(fd));
}
/* It makes nothing durable: neither the file's size nor what is in the disk's own cache. */
int sync_file_range(int fd, off64_t from, off64_t bytes, unsigned flags) {
    return sync_fails(fd) ? -1 : REAL(sync_file_range)(fd, from, bytes, flags);
}

/* Whether this slot has calls of this file fail. */
static int fails(int slot, int fd) {
    int64_t error = fault[slot];
    if (!error || !is_ours(fd))
        return 0;
    errno = error;
    return 1;
}
static int write_fails(int fd) { return fails(WRITE_ERRNO, fd); }

ssize_t pread64(int fd, void *bytes, size_t length, off_t at) {
    return fails(READ_ERRNO, fd) ? -1 : REAL(pread64)(fd, bytes, length, at);
}
ssize_t read(int fd, void *bytes, size_t length) {
    static __typeof__(&read) real;
    if (!real)
        real = REAL(read);
    return fails(READ_ERRNO, fd) ? -1 : real(fd, bytes, length);
}

/* The same of a path. */
static int path_fails(int slot, const char *path) {
    int64_t error = fault[slot];
    if (!error || !part || !strstr(path, part))
        return 0;
    errno = error;
    return 1;
}
int rename(const char *from, const char *to) { return path_fails(RENAME_ERRNO, from) ? -1 : REAL(rename)(from, to); }
int open64(const char *path, int flags, ...) {
    if (fault[OPEN_US] && part && strstr(path, part))
        usleep(fault[OPEN_US]);
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return REAL(open64)(path, flags, mode);
}
int unlink(const char *path) { return path_fails(UNLINK_ERRNO, path) ? -1 : REAL(unlink)(path); }

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    if (write_fails(fd))
        return -1;
    if (fault[TORN] && is_ours(fd)) {
        REAL(pwrite64)(fd, bytes, length * fault[TORN] / 1000, at);
        fault[TORN] = 0;
        kill(getpid(), SIGKILL);
    }
    ssize_t written = REAL(pwrite64)(fd, bytes, length, at);
    if (durable)
        wrote(fd, at, written);
    return written;
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

ssize_t write(int fd, const void *bytes, size_t length) {
    if (write_fails(fd))
        return -1;
    ssize_t written = REAL(write)(fd, bytes, length);
    if (durable && written > 0) {
        int error = errno;
        off_t end = lseek(fd, 0, SEEK_CUR);
        if (end >= written)
            wrote(fd, end - written, written);
        errno = error;
    }
    return written;
}

int ftruncate64(int fd, off64_t length) {
    int result = REAL(ftruncate64)(fd, length);
    char key[64];
    mode_t mode;
    if (durable && !result && key_of(fd, key, &mode)) {
        pthread_mutex_lock(&lock);
        struct file *file = file_of(key);
        file->cut = length < file->cut ? length : file->cut;
        pthread_mutex_unlock(&lock);
    }
    return result;
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        time->tv_sec += fault[CLOCK_S];
    return result;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    size_t length = name ? strlen(name) : 0;
    if (length < 5 || strcmp(name + length - 5, ".test"))
        return REAL(getaddrinfo)(name, service, hints, found);
    for (int n = 0; fault[NAMES_SILENT] && n < 1000; n++)
        usleep(10000);
    return fault[NAMES_SILENT] ? EAI_AGAIN : REAL(getaddrinfo)("127.0.0.1", service, hints, found);
}
