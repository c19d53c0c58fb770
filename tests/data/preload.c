/* A sick disk, a wrong clock and a silent name server for one process, for the tests of real faults.
 *
 * gcc -O2 -shared -fPIC -o libpreload.so preload.c -ldl
 * LD_PRELOAD=libpreload.so FAULT_CTL=<a file of 4096 bytes> FAULT_PATH=<part of a path> server …
 *
 * The file holds numbers of 64 bits, little endian, which may change at any time. Of files whose path contains FAULT_PATH:
 *   0  each sync fails with this errno
 *   1  each sync takes so many microseconds longer
 *   2  the next write stops after so many thousandths of its bytes, and the process dies by SIGKILL
 * and of the whole process:
 *   3  the wall clock is so many seconds ahead
 *   4  the name server is silent: a lookup of a name that ends in .test, which else stands for 127.0.0.1, takes 10 s
 *      and fails */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SYNC_ERRNO, SYNC_US, TORN, CLOCK_S, NAMES_SILENT };

static int64_t healthy[5];
static volatile int64_t *fault = healthy;
static const char *part;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_CTL");
    part = getenv("FAULT_PATH");
    int fd = path ? open(path, O_RDWR) : -1;
    if (fd < 0)
        return;
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        fault = page;
    close(fd);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!part || length <= 0)
        return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
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

int fsync(int fd) { return sync_fails(fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return sync_fails(fd) ? -1 : REAL(fdatasync)(fd); }
int sync_file_range(int fd, off64_t from, off64_t bytes, unsigned flags) {
    return sync_fails(fd) ? -1 : REAL(sync_file_range)(fd, from, bytes, flags);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    if (fault[TORN] && is_ours(fd)) {
        REAL(pwrite64)(fd, bytes, length * fault[TORN] / 1000, at);
        fault[TORN] = 0;
        kill(getpid(), SIGKILL);
    }
    return REAL(pwrite64)(fd, bytes, length, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

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
