/* Faults of a disk, below everything that reads and writes: preloaded into a process, armed by `fault_arm`.
 *
 * Only files whose path holds `word` are meant. One fault at a time:
 * READS_FAIL  bytes from offset `value` on cannot be read (EIO), as on a card that goes bad
 * DISK_FULL   files grow by `value` bytes in all, then writing ends with ENOSPC
 * KILLED      the process is killed in its `value`-th change of a file, a write being half done
 * STOPPED     the process stops (SIGSTOP) once it has read `value` bytes of such a file, until it is told to go on
 * RECORDED    every change goes to a record, from which any power cut can be made afterwards
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, READS_FAIL, DISK_FULL, KILLED, RECORDED, STOPPED };

static int fault = NOTHING, record = -1;
static char word[4096];
static int64_t value;

void fault_arm(int kind, const char *part_of_path, int64_t number, const char *record_path)
{
    snprintf(word, sizeof word, "%s", part_of_path);
    value = number;
    record = kind == RECORDED ? open(record_path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600) : -1;
    fault = kind;
}

static int ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* Which file it is: w(rite-ahead log), j(ournal), d(atabase or any other); 0 when it is not meant. */
static char tag_of(const char *path)
{
    if (fault == NOTHING || !strstr(path, word) || ends_with(path, "-shm"))
        return 0;
    return ends_with(path, "-wal") ? 'w' : ends_with(path, "-journal") ? 'j' : 'd';
}

static char tag(int fd)
{
    char link[64], path[4096];
    if (fault == NOTHING)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return tag_of(path);
}

static void note(char change, char file, int64_t at, const void *data, int64_t size)
{
    struct __attribute__((packed)) { char change, file; int64_t at, size; } head = {change, file, at, size};
    syscall(SYS_write, record, &head, sizeof head);
    if (data)
        syscall(SYS_write, record, data, size);
}

/* Before a change that is no write of bytes. */
static void change(char kind, char file, int64_t at)
{
    if (file && fault == RECORDED)
        note(kind, file, at, NULL, 0);
    if (file && fault == KILLED && --value == 0)
        kill(getpid(), SIGKILL);
}

static ssize_t put(int fd, const void *data, size_t size, int64_t at)
{
    char file = tag(fd);
    if (file && (fault == DISK_FULL || fault == KILLED || fault == RECORDED)) {
        struct stat state;
        int64_t start = at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
        if (fault == RECORDED)
            note('W', file, start, data, size);
        if (fault == KILLED && --value == 0) {
            syscall(SYS_pwrite64, fd, data, size / 2, start);
            kill(getpid(), SIGKILL);
        }
        if (fault == DISK_FULL && fstat(fd, &state) == 0 && start + (int64_t)size > state.st_size) {
            int64_t growth = start + size - state.st_size;
            if (growth > value) {
                errno = ENOSPC;
                return -1;
            }
            value -= growth;
        }
    }
    return at >= 0 ? syscall(SYS_pwrite64, fd, data, size, at) : syscall(SYS_write, fd, data, size);
}

static ssize_t get(int fd, void *data, size_t size, int64_t at)
{
    if ((fault == READS_FAIL || fault == STOPPED) && tag(fd)) {
        int64_t start = at >= 0 ? at : lseek(fd, 0, SEEK_CUR);
        if (start >= value && fault == READS_FAIL) {
            errno = EIO;
            return -1;
        }
        if (start >= value) {
            fault = NOTHING;
            raise(SIGSTOP); /* to this very thread, so that it reads no further */
        } else if (start + (int64_t)size > value)
            size = value - start;
    }
    return at >= 0 ? syscall(SYS_pread64, fd, data, size, at) : syscall(SYS_read, fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size) { return put(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return put(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return put(fd, data, size, at); }
ssize_t read(int fd, void *data, size_t size) { return get(fd, data, size, -1); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { return get(fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off_t at) { return get(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    ssize_t written = 0;
    if (!tag(fd))
        return syscall(SYS_writev, fd, parts, count);
    for (int i = 0; i < count; i++) {
        ssize_t part = put(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (part < 0)
            return written ? written : part;
        written += part;
    }
    return written;
}

int ftruncate(int fd, off_t size)
{
    change('T', tag(fd), size);
    return syscall(SYS_ftruncate, fd, size);
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fsync(int fd)
{
    change('S', tag(fd), 0);
    return syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    change('S', tag(fd), 0);
    return syscall(SYS_fdatasync, fd);
}

int unlink(const char *path)
{
    change('U', tag_of(path), 0);
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
