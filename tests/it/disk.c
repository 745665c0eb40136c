/* A disk that is slow or has bad sectors: a library that is loaded before the C library, for the tests in
 * `sectors.rs` and `slow.rs`.
 *
 *   DISK_BAD    INODE OFFSET BYTES ...      reading any of these bytes gives EIO
 *   DISK_SLOW   PATH-PART MILLISECONDS      how long fdatasync and fsync of such files take at least
 *   DISK_SLOW_WHILE  FILE                   only while this file is there
 *   DISK_SLOW_NAMES  PATH-PART MILLISECONDS  how long it takes at least to give a file such a name
 *   DISK_NO_DIRECTORY_SYNC  ANYTHING         fsync of a directory gives EINVAL
 *   DISK_TRACE  FILE                        a line for each pwrite and sync: name, path, offset, began, ended
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const char *path_of(int file, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, 4095);
    path[length < 0 ? 0 : length] = 0;
    return path;
}

static int is_bad(int file, off64_t from, size_t bytes) {
    const char *rest = getenv("DISK_BAD");
    unsigned long long inode;
    long long offset, count;
    struct stat64 status;
    int used;
    if (!rest || fstat64(file, &status)) return 0;
    while (sscanf(rest, "%llu %lld %lld%n", &inode, &offset, &count, &used) == 3) {
        if (inode == status.st_ino && from < offset + count && offset < from + (off64_t)bytes)
            return 1;
        rest += used;
    }
    return 0;
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void trace(const char *name, int file, long long offset, long long began) {
    const char *to = getenv("DISK_TRACE");
    char path[4096], line[4400];
    if (!to) return;
    int length = snprintf(line, sizeof line, "%s %s %lld %lld %lld\n", name, path_of(file, path),
                          offset, began, now());
    int log = open(to, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(log, line, length) != length) abort();
    close(log);
}

static void wait_if_has_part(const char *path, const char *slow) {
    char part[256];
    int milliseconds;
    if (slow && sscanf(slow, "%255s %d", part, &milliseconds) == 2 && strstr(path, part)) {
        struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
        nanosleep(&time, NULL);
    }
}

static void wait_if_slow(int file) {
    char path[4096];
    const char *only_while = getenv("DISK_SLOW_WHILE");
    if (only_while && access(only_while, F_OK)) return;
    wait_if_has_part(path_of(file, path), getenv("DISK_SLOW"));
}

int rename(const char *from, const char *to) {
    wait_if_has_part(to, getenv("DISK_SLOW_NAMES"));
    return NEXT(rename)(from, to);
}

int linkat(int from_in, const char *from, int to_in, const char *to, int flags) {
    wait_if_has_part(to, getenv("DISK_SLOW_NAMES"));
    return NEXT(linkat)(from_in, from, to_in, to, flags);
}

ssize_t pread64(int file, void *buffer, size_t bytes, off64_t offset) {
    if (is_bad(file, offset, bytes)) return errno = EIO, -1;
    return NEXT(pread64)(file, buffer, bytes, offset);
}

ssize_t read(int file, void *buffer, size_t bytes) {
    if (getenv("DISK_BAD")) {
        off64_t at = lseek64(file, 0, SEEK_CUR);
        if (at >= 0 && is_bad(file, at, bytes)) return errno = EIO, -1;
    }
    return NEXT(read)(file, buffer, bytes);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t bytes,
                        unsigned flags) {
    if (getenv("DISK_BAD")) {
        off64_t at = in_at ? *in_at : lseek64(in, 0, SEEK_CUR);
        if (is_bad(in, at, bytes)) return errno = EIO, -1;
    }
    return NEXT(copy_file_range)(in, in_at, out, out_at, bytes, flags);
}

ssize_t pwrite64(int file, const void *buffer, size_t bytes, off64_t offset) {
    long long began = now();
    ssize_t written = NEXT(pwrite64)(file, buffer, bytes, offset);
    trace("pwrite", file, offset, began);
    return written;
}

int fdatasync(int file) {
    long long began = now();
    wait_if_slow(file);
    int result = NEXT(fdatasync)(file);
    trace("sync", file, 0, began);
    return result;
}

int fsync(int file) {
    struct stat64 status;
    if (getenv("DISK_NO_DIRECTORY_SYNC") && !fstat64(file, &status) && S_ISDIR(status.st_mode))
        return errno = EINVAL, -1;
    long long began = now();
    wait_if_slow(file);
    int result = NEXT(fsync)(file);
    trace("sync", file, 0, began);
    return result;
}
