/*
 * A wrong clock for one program and the programs that it starts, as a library for LD_PRELOAD.
 *
 * The file that POSTHASTE_CLOCK_SHIFT names holds one 64-bit integer in the machine's byte order: the seconds by which
 * the time of day is wrong. The file is mapped, so a write to it changes the clock immediately. Clocks that cannot be set
 * (CLOCK_MONOTONIC, CLOCK_BOOTTIME) stay right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift_s;

__attribute__((constructor)) static void map_shift(void)
{
	const char *path = getenv("POSTHASTE_CLOCK_SHIFT");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *mapped = file >= 0 ? mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;

	/* A test that gets a right clock instead of a wrong one would prove nothing. */
	if (mapped == MAP_FAILED)
		abort();
	close(file);
	shift_s = mapped;
}

static int64_t shift(void)
{
	/* Constructors of other libraries may ask for the time before this one has run. */
	return shift_s ? *shift_s : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int outcome = (int)syscall(SYS_clock_gettime, clock, now);

	if (outcome == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += shift();
	return outcome;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec precise;

	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	if (now)
		*now = precise.tv_sec;
	return precise.tv_sec;
}
