/*
 * A network on a core in the same system: registers at AXI4-Lite, vectors through two FIFOs that
 * the CPU reaches. docs/how-to/c-driver.md explains it. To compile, nothing is needed but a
 * compiler for the CPU:
 *
 *   stillnet c-driver net.img -o driver
 *   riscv64-unknown-elf-gcc -march=rv32imc -mabi=ilp32 -Os -ffreestanding -DSTILLNET_LINK=0 \
 *       -Idriver -c examples/c/core.c driver/stillnet.c
 *
 * CORE, FIFO and TIMER are this system's own: write your addresses here.
 */

#include "stillnet.h"
#include "stillnet_engine.h"
#include "stillnet_network.h"

#ifndef CORE
#define CORE 0x40000000u /* the core's s_axi */
#define FIFO 0x40010000u /* a FIFO in front of s_axis and one behind m_axis */
#define TIMER 0x40020000u /* counts milliseconds */
#endif
#define WORD(address) (*(volatile uint32_t *)(uintptr_t)(address))

static void write32(void *context, uint32_t offset, uint32_t value)
{
    (void)context;
    WORD(CORE + offset) = value;
}

static uint32_t read32(void *context, uint32_t offset)
{
    (void)context;
    return WORD(CORE + offset);
}

/* FIFO + 0: an element to the core, or from it; + 4: room for so many; + 8: so many are there. */
static size_t put(void *context, const int16_t *elements, size_t count)
{
    const size_t room = WORD(FIFO + 4);
    (void)context;
    if (count > room) count = room;
    for (size_t k = 0; k < count; k++) WORD(FIFO) = (uint16_t)elements[k];
    return count;
}

static size_t get(void *context, int16_t *elements, size_t count)
{
    const size_t there = WORD(FIFO + 8);
    (void)context;
    if (count > there) count = there;
    for (size_t k = 0; k < count; k++) elements[k] = (int16_t)(uint16_t)WORD(FIFO);
    return count;
}

static uint32_t now(void *context)
{
    (void)context;
    return WORD(TIMER);
}

extern const uint8_t image[];       /* net.img in flash: .incbin, or 'ld -r -b binary' */
extern const uint32_t image_bytes;
void show(const char *text);        /* this system's way to say something */
const int16_t *next_input(void);
void take_output(const int16_t *y);

int run_network(void);
int run_network(void)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    static const stillnet_bus bus = {
        .write32 = write32, .read32 = read32, .put = put, .get = get, .now = now,
    };
    static stillnet d;
    static int16_t y[STILLNET_NETWORK_OUTPUTS];
    char text[160];
    int error = stillnet_open_bus(&d, &engine, &bus);
    if (!error) error = stillnet_load(&d, image, image_bytes, 0, NULL, NULL);
    while (!error) {
        error = stillnet_step(&d, next_input(), y);
        if (!error) take_output(y);
    }
    stillnet_describe(&d, error, text, sizeof text);
    show(text);
    return error;
}
