/* What the tests of real faults need of the machine, and Rust has no safe call for.
 *
 * gcc -O2 -o machine machine.c
 *
 * machine cut-power MOUNT
 *     From now on nothing reaches this ext4 file system's disk, and what has not reached it yet is gone.
 *
 * machine switch CTL TAP NAMESPACE…
 *     An Ethernet switch in a process. Port 0 is the interface TAP here, port n the interface eth0 in the n-th network
 *     namespace; they last as long as the process. A frame to 02:00:00:00:00:<n> goes to port n, one to all goes to
 *     all. CTL is a file of 8192 bytes: for the frames from port f to port t the number of 64 bits at 2 * (16 f + t)
 *     says how many of a million are lost, the one behind it for how many microseconds the others are held up, and the
 *     one at 512 + 16 f + t how many bytes pass in a second; 0: any number. What a slow link cannot pass at once waits
 *     for up to 100 ms, and what comes then is lost. The number at 768 + 16 f + t says in its lower 32 bits how long a
 *     frame may be, and in its upper ones to which TCP port none goes; 0: any, none. Says "ready" once it is. Ends with
 *     its standard input. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PORTS 16
#define FRAME 2048
/* Of one direction of one link; more are lost, as in a real switch. */
#define HELD 4096

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int cut_power(const char *mount) {
    const unsigned long ext4_ioc_shutdown = 0x8004587D;
    uint32_t without_flush_of_the_journal = 2;
    int fd = open(mount, O_RDONLY);
    if (fd < 0 || ioctl(fd, ext4_ioc_shutdown, &without_flush_of_the_journal) != 0)
        die(mount);
    return 0;
}

struct held {
    int64_t leaves_us;
    int length;
    unsigned char *frame;
};
static struct queue {
    struct held ring[HELD];
    unsigned first, count;
    int64_t free_us;
} queues[PORTS][PORTS];

static volatile int64_t *ctl;
static int taps[PORTS], ports;

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static int tap(const char *name) {
    struct ifreq request = {0};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    request.ifr_flags = IFF_TAP | IFF_NO_PI;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0)
        die(name);
    return fd;
}

/* Whether this is IPv4 with TCP for that port. */
static int is_for(const unsigned char *frame, int length, int port) {
    const unsigned char *ip = frame + 14;
    if (length < 14 + 20 || frame[12] != 8 || frame[13] != 0 || ip[9] != 6)
        return 0;
    const unsigned char *tcp = ip + 4 * (ip[0] & 15);
    return tcp + 4 <= frame + length && (tcp[2] << 8 | tcp[3]) == port;
}

static void pass(int from, int to, const unsigned char *frame, int length) {
    int64_t lost = ctl[2 * (PORTS * from + to)], delay_us = ctl[2 * (PORTS * from + to) + 1];
    int64_t bytes_per_s = ctl[512 + PORTS * from + to], now = now_us();
    struct queue *queue = &queues[from][to];
    uint64_t barred = ctl[768 + PORTS * from + to];
    int longest = barred & 0xffffffff, port = barred >> 32;
    if ((random() % 1000000) < lost || (longest && length > longest) || (port && is_for(frame, length, port)))
        return;
    if (bytes_per_s > 0) {
        int64_t begins = queue->free_us > now ? queue->free_us : now;
        if (begins - now > 100000)
            return;
        queue->free_us = begins + length * 1000000LL / bytes_per_s;
        delay_us += queue->free_us - now;
    }
    if (delay_us == 0 && queue->count == 0) {
        if (write(taps[to], frame, length) < 0) { /* The interface is not up: the frame is lost. */ }
        return;
    }
    if (queue->count == HELD)
        return;
    struct held *held = &queue->ring[(queue->first + queue->count++) % HELD];
    held->leaves_us = now + delay_us;
    held->length = length;
    held->frame = malloc(length);
    if (!held->frame)
        die("malloc");
    memcpy(held->frame, frame, length);
}

/* Sends what has been held up for long enough; how long until there is more, in microseconds. */
static int64_t release(void) {
    int64_t now = now_us(), least = 50000;
    for (int from = 0; from < ports; from++)
        for (int to = 0; to < ports; to++)
            for (struct queue *queue = &queues[from][to]; queue->count;) {
                struct held *held = &queue->ring[queue->first];
                if (held->leaves_us > now) {
                    if (held->leaves_us - now < least)
                        least = held->leaves_us - now;
                    break;
                }
                if (write(taps[to], held->frame, held->length) < 0) { /* As above. */ }
                free(held->frame);
                queue->first = (queue->first + 1) % HELD;
                queue->count--;
            }
    return least;
}

static int run_switch(const char *path, char **names, int count) {
    int fd = open(path, O_RDWR);
    ctl = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || ctl == MAP_FAILED || count > PORTS)
        die(path);
    ports = count;
    struct pollfd polled[PORTS + 1];
    for (int port = 0; port < count; port++) {
        if (port > 0) {
            char space[256];
            snprintf(space, sizeof space, "/run/netns/%s", names[port]);
            int net = open(space, O_RDONLY);
            if (net < 0 || setns(net, CLONE_NEWNET) != 0)
                die(space);
            close(net);
        }
        taps[port] = tap(port ? "eth0" : names[0]);
        polled[port] = (struct pollfd){.fd = taps[port], .events = POLLIN};
    }
    polled[count] = (struct pollfd){.fd = 0, .events = POLLIN};
    puts("ready");
    fflush(stdout);
    for (;;) {
        int64_t wait_us = release();
        struct timespec wait = {0, wait_us * 1000};
        if (ppoll(polled, count + 1, &wait, NULL) < 0)
            die("ppoll");
        if (polled[count].revents)
            return 0;
        for (int from = 0; from < count; from++) {
            unsigned char frame[FRAME];
            int length;
            while ((length = read(taps[from], frame, sizeof frame)) >= 14) {
                int known = memcmp(frame, "\2\0\0\0\0", 5) == 0 && frame[5] < count;
                for (int to = 0; to < count; to++)
                    if (to != from && (known ? to == frame[5] : frame[0] & 1))
                        pass(from, to, frame, length);
            }
        }
    }
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "cut-power") == 0)
        return cut_power(words[2]);
    if (count > 4 && strcmp(words[1], "switch") == 0)
        return run_switch(words[2], words + 3, count - 3);
    fputs("usage: machine cut-power MOUNT | switch CTL TAP NAMESPACE…\n", stderr);
    return 2;
}
