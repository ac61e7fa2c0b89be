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
static volatile uint32_t interrupts;

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

/* From start.S. The cause stays until its vector is taken, so it is switched off first. */
void interrupt(void);
void interrupt(void)
{
    interrupts++;
    WORD(STILLNET_BASE + 4 * STILLNET_STREAM_INTERRUPTS) = 0;
}

static void wait_for_interrupt(void)
{
    const uint32_t before = interrupts;
    WORD(STILLNET_BASE + 4 * STILLNET_STREAM_INTERRUPTS) = STILLNET_INTERRUPT_OUTPUT;
    while (interrupts == before) {
    }
}

static int run(stillnet *d)
{
    const int16_t *const x = inputs;
    int error = stillnet_load(d, image, (size_t)(image_end - image), 0, NULL, NULL);
    if (error) return error;
    for (int k = 0; k < BY_INTERRUPT && !error; k++) { /* the CPU could do something else */
        error = stillnet_submit(d, x + k * STILLNET_NETWORK_INPUTS, outputs[k]);
        if (error) return error;
        wait_for_interrupt();
        error = stillnet_finish(d);
    }
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
        .get = stillnet_get, .now = now, .context = (void *)STILLNET_BASE,
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
