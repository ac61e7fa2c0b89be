/*
 * A network on a core in a LiteX system: loads the image, runs the vectors, sends outputs and cycles
 * over the UART. soc.py builds the system and this program, and compares the outputs.
 */

#include "stillnet_bus.h"
#include "stillnet_engine.h"
#include "stillnet_network.h"
#include "system.h"

#define WORD(address) (*(volatile uint32_t *)(uintptr_t)(address))

extern const uint8_t image[], image_end[];
extern const int16_t inputs[];

static int16_t outputs[STEPS][STILLNET_NETWORK_OUTPUTS];
static volatile uint32_t interrupts, waits;

/* What a compiler may call without a C library. */
void *memcpy(void *to, const void *from, size_t size);
void *memcpy(void *to, const void *from, size_t size)
{
    for (size_t k = 0; k < size; k++) ((uint8_t *)to)[k] = ((const uint8_t *)from)[k];
    return to;
}

void *memset(void *to, int value, size_t size);
void *memset(void *to, int value, size_t size)
{
    for (size_t k = 0; k < size; k++) ((uint8_t *)to)[k] = (uint8_t)value;
    return to;
}

static uint64_t cycles(void)
{
    WORD(TIMER0_UPTIME_LATCH) = 1;
    return (uint64_t)WORD(TIMER0_UPTIME_CYCLES) << 32 | WORD(TIMER0_UPTIME_CYCLES + 4);
}

static uint32_t now(void *context)
{
    (void)context;
    return (uint32_t)(cycles() / 65536); /* a millisecond at 65.536 MHz */
}

static void send(char c)
{
    while (WORD(UART_TXFULL)) {
    }
    WORD(UART_RXTX) = (uint8_t)c;
}

static void send_text(const char *text)
{
    while (*text) send(*text++);
}

static void send_number(uint32_t value)
{
    for (int shift = 28; shift >= 0; shift -= 4) send("0123456789abcdef"[value >> shift & 15]);
    send('\n');
}

/* From start.S. The cause stays until its vector is taken, so it is switched off. */
void interrupt(void);
void interrupt(void)
{
    interrupts++;
    WORD(STILLNET_BASE + 4 * STILLNET_STREAM_INTERRUPTS) = 0;
}

/* The driver asks again and again; here it waits until there is something. The CPU could do other
   work meanwhile, or sleep. What the input queue had no room for must go on, too. */
static size_t get(void *core, int16_t *elements, size_t count)
{
    const uint32_t queues = waits ? stillnet_read32(core, 4 * STILLNET_STREAM_QUEUES) : 0;
    if (waits && !(queues >> 16)) {
        const uint32_t before = interrupts;
        const uint32_t full = (queues & 0xffff) == 0;
        stillnet_write32(core, 4 * STILLNET_STREAM_INTERRUPTS,
                         STILLNET_INTERRUPT_OUTPUT | (full ? STILLNET_INTERRUPT_INPUT : 0));
        while (interrupts == before) {
        }
    }
    return stillnet_get(core, elements, count);
}

static int run(stillnet *d)
{
    const int16_t *const x = inputs;
    int error = stillnet_load(d, image, (size_t)(image_end - image), 0, NULL, NULL);
    if (error) return error;
    waits = 1;
    for (int k = 0; k < BY_INTERRUPT && !error; k++)
        error = stillnet_step(d, x + k * STILLNET_NETWORK_INPUTS, outputs[k]);
    waits = 0;
    if (!error) error = stillnet_clear_counters(d);
    if (!error) {
        const uint64_t begin = cycles();
        error = stillnet_run(d, x + BY_INTERRUPT * STILLNET_NETWORK_INPUTS, outputs[BY_INTERRUPT],
                             STEPS - BY_INTERRUPT);
        send_text("cycles ");
        send_number((uint32_t)(cycles() - begin));
    }
    return error;
}

int main(void)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    static stillnet d;
    static uint32_t counters[STILLNET_COUNTERS];
    const stillnet_bus bus = {
        .write32 = stillnet_write32, .read32 = stillnet_read32, .put = stillnet_put,
        .get = get, .now = now, .timeout = TIMEOUT, .context = (void *)STILLNET_BASE,
    };
    int error;
    PREPARE();
    WORD(STILLNET_EV_ENABLE) = 1;
    __asm__ volatile("csrw 0xbc0, %0" ::"r"(1u << STILLNET_IRQ)); /* VexRiscv's mask */
    __asm__ volatile("csrs mie, %0" ::"r"(1u << 11));
    __asm__ volatile("csrs mstatus, %0" ::"r"(1u << 3));
    error = stillnet_open_bus(&d, &engine, &bus);
    if (!error) error = run(&d);
    if (!error) error = stillnet_get_counters(&d, counters);
    if (error) {
        char text[160];
        stillnet_describe(&d, error, text, sizeof text);
        send_text("error ");
        send_text(text);
    } else {
        send_text("interrupts ");
        send_number(interrupts);
        send_text("busy ");
        send_number(counters[STILLNET_COUNTER_CYCLES]);
        send_text("outputs\n");
        for (int k = 0; k < STEPS; k++)
            for (int i = 0; i < STILLNET_NETWORK_OUTPUTS; i += 2) {
                const uint16_t odd = i + 1 < STILLNET_NETWORK_OUTPUTS ? (uint16_t)outputs[k][i + 1] : 0;
                send_number((uint32_t)(uint16_t)outputs[k][i] | (uint32_t)odd << 16);
            }
    }
    send(4);
    return 0;
}
