/* A disk that fails on demand and loses what was not synced, as a library for LD_PRELOAD in a server under test.
 *
 * POSTHASTE_DISK_FOLDER  a folder: all files below it are on the disk
 * POSTHASTE_DISK_RULES   a file with rules; it is read at each call, so that a test can change the rules while the server runs
 * POSTHASTE_DISK_SYNCED  a folder with a copy of each file, under the same name: what would be left of it after a power loss
 * POSTHASTE_DISK_MOUNTS  a file that is opened instead of /proc/self/mountinfo
 *
 * A rule is a line: CALL SUFFIX ERRNO SKIP COUNT DELAY_MS. It applies to calls of one kind (open, read, write, sync) on files
 * whose path ends with SUFFIX. The first SKIP calls pass, the next COUNT (-1: all) wait for DELAY_MS and fail with ERRNO
 * (0: they only wait).
 *
 * The model of a power loss is that of Linux: a page that was written and not synced is lost. After a failed sync the kernel
 * treats its pages as clean, although they are not on the disk. So a later sync succeeds and does not write them either. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define FILES 64
#define RULES 16
#define PAGES (1 << 20)
#define RULES_BYTES 4096

struct file {
    char path[PATH_MAX];
    unsigned char *dirty; /* one byte for each page: 1 if it was written and not synced */
    long pages;           /* all dirty pages are before this one */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file files[FILES];
static int file_count;
static char rules_read[RULES_BYTES];
static long seen[RULES];

static long raw_read(int fd, void *buffer, size_t count) { return syscall(SYS_read, fd, buffer, count); }

/* The path of a descriptor, if it is on the disk. */
static int path_of(int fd, char *path) {
    const char *folder = getenv("POSTHASTE_DISK_FOLDER");
    char link[64];
    if (!folder) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int ends_with(const char *text, const char *suffix) {
    size_t length = strlen(text), wanted = strlen(suffix);
    return length >= wanted && strcmp(text + length - wanted, suffix) == 0;
}

/* The errno with which a call fails, after its delay; 0 for a call that succeeds. */
static int fault(const char *call, const char *path) {
    const char *name = getenv("POSTHASTE_DISK_RULES");
    char text[RULES_BYTES] = {0};
    int failing = 0;
    long delay_ms = 0;
    if (!name) return 0;
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY);
    if (fd < 0) return 0;
    long length = raw_read(fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (length <= 0) return 0;
    pthread_mutex_lock(&lock);
    if (strcmp(text, rules_read) != 0) {
        memcpy(rules_read, text, sizeof text);
        memset(seen, 0, sizeof seen);
    }
    char *rest = text;
    for (int index = 0; index < RULES && rest && *rest; index++) {
        char *line = strsep(&rest, "\n");
        char kind[16], suffix[256];
        int number;
        long skip, count, delay;
        if (sscanf(line, "%15s %255s %d %ld %ld %ld", kind, suffix, &number, &skip, &count, &delay) != 6) continue;
        if (strcmp(kind, call) != 0 || !ends_with(path, suffix)) continue;
        long before = seen[index]++;
        if (before < skip || (count >= 0 && before >= skip + count)) continue;
        failing = number;
        delay_ms = delay;
    }
    pthread_mutex_unlock(&lock);
    if (delay_ms > 0) {
        struct timespec delay = {delay_ms / 1000, delay_ms % 1000 * 1000000};
        nanosleep(&delay, NULL);
    }
    return failing;
}

static struct file *file_of(const char *path) {
    for (int index = 0; index < file_count; index++)
        if (strcmp(files[index].path, path) == 0) return &files[index];
    if (file_count == FILES) return NULL;
    struct file *file = &files[file_count++];
    strcpy(file->path, path);
    file->dirty = calloc(PAGES, 1);
    file->pages = 0;
    return file;
}

static void written(const char *path, off_t offset, ssize_t count) {
    if (count <= 0) return;
    pthread_mutex_lock(&lock);
    struct file *file = file_of(path);
    for (off_t page = offset / PAGE; file && page <= (offset + count - 1) / PAGE && page < PAGES; page++) {
        file->dirty[page] = 1;
        if (page >= file->pages) file->pages = page + 1;
    }
    pthread_mutex_unlock(&lock);
}

/* Opens the copy that holds the synced state of a file. */
static int open_synced(const char *path) {
    const char *folder = getenv("POSTHASTE_DISK_SYNCED");
    char name[PATH_MAX];
    if (!folder) return -1;
    snprintf(name, sizeof name, "%s/%s", folder, strrchr(path, '/') + 1);
    return syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CREAT, 0600);
}

/* Records the end of a sync. If it succeeded, its pages are on the disk. Otherwise they are lost. */
static void synced(int fd, const char *path, int succeeded) {
    struct stat status;
    pthread_mutex_lock(&lock);
    struct file *file = file_of(path);
    int target = succeeded ? open_synced(path) : -1;
    for (long page = 0; file && page < file->pages; page++) {
        char bytes[PAGE];
        if (!file->dirty[page]) continue;
        file->dirty[page] = 0;
        if (target < 0) continue;
        long length = syscall(SYS_pread64, fd, bytes, PAGE, (off_t)page * PAGE);
        if (length > 0) syscall(SYS_pwrite64, target, bytes, length, (off_t)page * PAGE);
    }
    if (file) file->pages = 0;
    if (target >= 0 && fstat(fd, &status) == 0) syscall(SYS_ftruncate, target, status.st_size);
    if (target >= 0) syscall(SYS_close, target);
    pthread_mutex_unlock(&lock);
}

static int sync_call(int fd, long number) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return syscall(number, fd);
    struct stat status;
    int is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    int failing = fault("sync", path);
    if (is_file) synced(fd, path, failing == 0);
    if (failing) {
        errno = failing;
        return -1;
    }
    return syscall(number, fd);
}

int fsync(int fd) { return sync_call(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_call(fd, SYS_fdatasync); }

ssize_t pwrite64(int fd, const void *buffer, size_t count, off64_t offset) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return syscall(SYS_pwrite64, fd, buffer, count, offset);
    int failing = fault("write", path);
    if (failing) {
        errno = failing;
        return -1;
    }
    ssize_t done = syscall(SYS_pwrite64, fd, buffer, count, offset);
    int kept = errno;
    written(path, offset, done);
    errno = kept;
    return done;
}

ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) { return pwrite64(fd, buffer, count, offset); }

ssize_t write(int fd, const void *buffer, size_t count) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return syscall(SYS_write, fd, buffer, count);
    int failing = fault("write", path);
    if (failing) {
        errno = failing;
        return -1;
    }
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t done = syscall(SYS_write, fd, buffer, count);
    int kept = errno;
    written(path, offset, done);
    errno = kept;
    return done;
}

ssize_t pread64(int fd, void *buffer, size_t count, off64_t offset) {
    char path[PATH_MAX];
    int failing = path_of(fd, path) ? fault("read", path) : 0;
    if (failing) {
        errno = failing;
        return -1;
    }
    return syscall(SYS_pread64, fd, buffer, count, offset);
}

ssize_t pread(int fd, void *buffer, size_t count, off_t offset) { return pread64(fd, buffer, count, offset); }

ssize_t read(int fd, void *buffer, size_t count) {
    char path[PATH_MAX];
    int failing = path_of(fd, path) ? fault("read", path) : 0;
    if (failing) {
        errno = failing;
        return -1;
    }
    return raw_read(fd, buffer, count);
}

static int open_call(const char *name, int flags, mode_t mode) {
    const char *folder = getenv("POSTHASTE_DISK_FOLDER");
    int on_disk = folder && strncmp(name, folder, strlen(folder)) == 0;
    int failing = on_disk && (flags & O_ACCMODE) != O_RDONLY ? fault("open", name) : 0;
    const char *mounts = getenv("POSTHASTE_DISK_MOUNTS");
    if (failing) {
        errno = failing;
        return -1;
    }
    if (mounts && strcmp(name, "/proc/self/mountinfo") == 0) name = mounts;
    return syscall(SYS_openat, AT_FDCWD, name, flags, mode);
}

#define MODE(flags, mode)                        \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | __O_TMPFILE)) {       \
        va_list more;                            \
        va_start(more, flags);                   \
        mode = va_arg(more, mode_t);             \
        va_end(more);                            \
    }

int open(const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_call(name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags, mode)
    return open_call(name, flags, mode);
}
