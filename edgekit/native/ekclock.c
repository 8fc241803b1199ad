/* ekclock: a clock that ticks in instructions, for programs run under ekcount.
 *
 * Preloaded into the aarch64 guest, it answers clock_gettime and gettimeofday with the number of
 * instructions executed so far, one instruction counting as one microsecond. The profiler of the
 * runtime, which prints microseconds, then prints instructions per operator.
 *
 * Without ekcount the clock stands still at 0.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

static const uint64_t TICKS_PER_SECOND = 1000000;

/* hint #114 makes ekcount replace what the next store wrote. Aligned so that hint and store lie in
 * one translation block: a block never crosses a page. */
__attribute__((noinline, aligned(64))) static uint64_t executed_instructions(void) {
    volatile uint64_t box;
    uint64_t value;
    __asm__ volatile("hint #114\n\t"
                     "str xzr, [%1]\n\t"
                     "ldr %0, [%1]"
                     : "=&r"(value)
                     : "r"(&box)
                     : "memory");
    return value;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    uint64_t ticks = executed_instructions();
    (void)clock;
    time->tv_sec = (time_t)(ticks / TICKS_PER_SECOND);
    time->tv_nsec = (long)(ticks % TICKS_PER_SECOND * 1000);
    return 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    uint64_t ticks = executed_instructions();
    (void)zone;
    time->tv_sec = (time_t)(ticks / TICKS_PER_SECOND);
    time->tv_usec = (suseconds_t)(ticks % TICKS_PER_SECOND);
    return 0;
}
