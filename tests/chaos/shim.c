/* Disks that are slow or fail, and clocks that are bent, for one process: loaded before the C library
 * (LD_PRELOAD). What happens stands in the file that DEMES_CHAOS_CONTROL names; the run changes it
 * while the process runs. Lines of it, the first that fits counts:
 *
 *     sync MILLISECONDS ERRNO PATH     fsync, fdatasync and sync_file_range of files whose path has
 *                                      PATH in it take so long, and then fail, unless ERRNO is 0
 *     write MILLISECONDS ERRNO PATH    the same for pwrite
 *     clock MILLISECONDS               the wall clock is ahead by so much
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL_BYTES = 4096, PATH_BYTES = 1024 };

static const char *control;

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("DEMES_CHAOS_CONTROL");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, CONTROL_BYTES, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED)
        control = mapped;
}

/* A copy of the lines that nobody changes meanwhile; 0 if there are none. */
static int lines(char *copy)
{
    if (!control || !control[0])
        return 0;
    memcpy(copy, control, CONTROL_BYTES - 1);
    copy[CONTROL_BYTES - 1] = 0;
    return 1;
}

static void wait_for(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

/* Takes the time that a call on this file takes; the error with which it fails, or 0. */
static int harm(const char *call, int file)
{
    char copy[CONTROL_BYTES], link[64], path[PATH_BYTES];
    if (!lines(copy))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    char *rest = copy, *line, word[16], part[256];
    while ((line = strsep(&rest, "\n"))) {
        long milliseconds;
        int error;
        if (sscanf(line, "%15s %ld %d %255s", word, &milliseconds, &error, part) != 4)
            continue;
        if (strcmp(word, call) || !strstr(path, part))
            continue;
        wait_for(milliseconds);
        return error;
    }
    return 0;
}

#define NEXT(name, ...) ((int (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))
#define FAIL_IF_SO(call, file)             \
    do {                                   \
        int error = harm(call, file);      \
        if (error) {                       \
            errno = error;                 \
            return -1;                     \
        }                                  \
    } while (0)

int fsync(int file)
{
    FAIL_IF_SO("sync", file);
    return NEXT("fsync", int)(file);
}

int fdatasync(int file)
{
    FAIL_IF_SO("sync", file);
    return NEXT("fdatasync", int)(file);
}

int sync_file_range(int file, off64_t from, off64_t length, unsigned flags)
{
    FAIL_IF_SO("sync", file);
    return NEXT("sync_file_range", int, off64_t, off64_t, unsigned)(file, from, length, flags);
}

typedef ssize_t (*write_at)(int, const void *, size_t, off64_t);

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t place)
{
    FAIL_IF_SO("write", file);
    return ((write_at)dlsym(RTLD_NEXT, "pwrite64"))(file, bytes, count, place);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t place)
{
    FAIL_IF_SO("write", file);
    return ((write_at)dlsym(RTLD_NEXT, "pwrite64"))(file, bytes, count, place);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = NEXT("clock_gettime", clockid_t, struct timespec *);
    int failed = real(clock, now);
    char copy[CONTROL_BYTES];
    if (failed || clock != CLOCK_REALTIME || !lines(copy))
        return failed;
    char *rest = copy, *line;
    while ((line = strsep(&rest, "\n"))) {
        long ahead;
        if (sscanf(line, "clock %ld", &ahead) != 1)
            continue;
        long long nanoseconds = now->tv_nsec + ahead % 1000 * 1000000LL;
        now->tv_sec += ahead / 1000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
        now->tv_nsec = (nanoseconds + 1000000000) % 1000000000;
        break;
    }
    return 0;
}
