/*
 * Counts the bytes that a process copies in user space: preloaded, it stands before the C library's
 * copying functions. Rust compiles every copy of more than some dozen bytes whose length is not a
 * constant, and every long one, to a call of memcpy or memmove, and the binary calls these through
 * its dynamic symbols. Not seen: what the C library copies within itself (but see realloc), and
 * what the kernel copies, which is no copy in user space.
 *
 * The counters are shared through the file that CATENA_COPIES names, so that they can be read at
 * any time: two numbers of 64 bits, the bytes of all copies and of those of COUNTED_MIN and more.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* What is shorter is a value that is moved, above all in a build that is not optimised. */
#define COUNTED_MIN 4096

struct counters {
    uint64_t all_bytes;
    uint64_t long_bytes;
};

static struct counters early;
static struct counters *counters = &early;

__attribute__((constructor)) static void share(void) {
    const char *path = getenv("CATENA_COPIES");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) abort();
    void *shared = mmap(0, sizeof early, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) abort();
    close(file);
    counters = shared;
}

static void count(size_t bytes) {
    __atomic_fetch_add(&counters->all_bytes, bytes, __ATOMIC_RELAXED);
    if (bytes >= COUNTED_MIN) __atomic_fetch_add(&counters->long_bytes, bytes, __ATOMIC_RELAXED);
}

static void *copy(void *to, const void *from, size_t bytes) {
    char *t = to;
    const char *f = from;
    count(bytes);
    if ((uintptr_t)t - (uintptr_t)f >= bytes) {
        for (size_t i = 0; i < bytes; i++) t[i] = f[i];
    } else {
        while (bytes-- > 0) t[bytes] = f[bytes];
    }
    return to;
}

void *memcpy(void *to, const void *from, size_t bytes) { return copy(to, from, bytes); }

void *memmove(void *to, const void *from, size_t bytes) { return copy(to, from, bytes); }

void *mempcpy(void *to, const void *from, size_t bytes) {
    return (char *)copy(to, from, bytes) + bytes;
}

void bcopy(const void *from, void *to, size_t bytes) { copy(to, from, bytes); }

void *__memcpy_chk(void *to, const void *from, size_t bytes, size_t room) {
    if (bytes > room) abort();
    return copy(to, from, bytes);
}

void *__memmove_chk(void *to, const void *from, size_t bytes, size_t room) {
    if (bytes > room) abort();
    return copy(to, from, bytes);
}

void *__mempcpy_chk(void *to, const void *from, size_t bytes, size_t room) {
    if (bytes > room) abort();
    return (char *)copy(to, from, bytes) + bytes;
}

/* Memory that moves as it grows is copied, where the kernel does not move its pages. */
void *realloc(void *old, size_t bytes) {
    static void *(*next)(void *, size_t);
    void *(*real)(void *, size_t) = __atomic_load_n(&next, __ATOMIC_RELAXED);
    if (!real) {
        real = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
        __atomic_store_n(&next, real, __ATOMIC_RELAXED);
    }
    size_t had = malloc_usable_size(old);
    uintptr_t was = (uintptr_t)old;
    void *moved = real(old, bytes);
    if (had > 0 && moved && (uintptr_t)moved != was) count(had < bytes ? had : bytes);
    return moved;
}
