/* A set-associative cache: 64-byte lines, LRU, allocation on read and write. No prefetcher, no TLB,
 * nothing else running: what is counted is the traffic of one thread alone. A cache passes its
 * misses on to the next one. */
#ifndef EDGEKIT_CACHE_MODEL_H
#define EDGEKIT_CACHE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { LINE_SHIFT = 6 };

typedef struct Cache {
    const char *name;
    struct Cache *next;
    uint64_t *tags;  /* sets x ways line numbers */
    uint8_t *ages;   /* sets x ways, 0 is the most recently used */
    unsigned sets;
    unsigned ways;
    uint64_t accesses;
    uint64_t misses;
} Cache;

static bool cache_present(const Cache *cache) {
    return cache->sets != 0;
}

static bool cache_init(Cache *cache, unsigned kib, unsigned ways) {
    size_t lines = (size_t)kib * 1024 >> LINE_SHIFT;
    if (kib == 0 || kib > 1024 * 1024 || ways == 0 || ways > 255 || lines % ways != 0) {
        return false;
    }
    cache->ways = ways;
    cache->sets = (unsigned)(lines / ways);
    cache->tags = malloc(lines * sizeof *cache->tags);
    cache->ages = malloc(lines);
    if (cache->tags == NULL || cache->ages == NULL) {
        return false;
    }
    for (size_t i = 0; i < lines; i++) {
        cache->tags[i] = UINT64_MAX; /* no line: an address has fewer bits */
        cache->ages[i] = (uint8_t)(i % ways);
    }
    return true;
}

static void cache_touch(Cache *cache, uint64_t line) {
    size_t first = (size_t)(line % cache->sets) * cache->ways;
    uint64_t *tags = cache->tags + first;
    uint8_t *ages = cache->ages + first;
    unsigned way = 0;
    unsigned oldest = 0;

    cache->accesses++;
    for (way = 0; way < cache->ways && tags[way] != line; way++) {
        if (ages[way] == cache->ways - 1) {
            oldest = way;
        }
    }
    bool hit = way < cache->ways;
    if (!hit) {
        way = oldest;
        cache->misses++;
        tags[way] = line;
    }
    uint8_t age = ages[way];
    if (age != 0) {
        for (unsigned other = 0; other < cache->ways; other++) {
            ages[other] += ages[other] < age;
        }
        ages[way] = 0;
    }
    if (!hit && cache->next != NULL) {
        cache_touch(cache->next, line);
    }
}

static void touch_range(Cache *cache, uint64_t address, uint64_t bytes) {
    uint64_t last = (address + bytes - 1) >> LINE_SHIFT;
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++) {
        cache_touch(cache, line);
    }
}

#endif
