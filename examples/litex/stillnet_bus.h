/*
 * The callbacks of stillnet's C driver for a core whose streams are registers (`stillnet generate
 * --streams registers`, or the LiteX module). Two elements cross the bus at a time. The address of
 * the core is the context.
 */

#ifndef STILLNET_BUS_H
#define STILLNET_BUS_H

#include "stillnet.h"

static void stillnet_write32(void *core, uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)((uint8_t *)core + offset) = value;
}

static uint32_t stillnet_read32(void *core, uint32_t offset)
{
    return *(volatile uint32_t *)((uint8_t *)core + offset);
}

static size_t stillnet_put(void *core, const int16_t *elements, size_t count)
{
    volatile uint32_t *const window = (volatile uint32_t *)core;
    const size_t room = window[STILLNET_STREAM_QUEUES] & 0xffff;
    size_t k;
    if (count > room) count = room;
    for (k = 0; k + 1 < count; k += 2)
        window[STILLNET_STREAM_PAIR] =
            (uint32_t)(uint16_t)elements[k] | (uint32_t)(uint16_t)elements[k + 1] << 16;
    if (k < count) window[STILLNET_STREAM_ELEMENT] = (uint16_t)elements[k];
    return count;
}

static size_t stillnet_get(void *core, int16_t *elements, size_t count)
{
    volatile uint32_t *const window = (volatile uint32_t *)core;
    const size_t there = window[STILLNET_STREAM_QUEUES] >> 16;
    size_t k;
    if (count > there) count = there;
    for (k = 0; k + 1 < count; k += 2) {
        const uint32_t pair = window[STILLNET_STREAM_PAIR];
        elements[k] = (int16_t)(uint16_t)pair;
        elements[k + 1] = (int16_t)(uint16_t)(pair >> 16);
    }
    if (k < count) elements[k] = (int16_t)(uint16_t)window[STILLNET_STREAM_ELEMENT];
    return count;
}

#endif
