/*
 * What the driver costs on a small CPU: steps on a bus and on a link whose other ends are ports of
 * a simulator. tests/support/measure/c_driver.py counts the instructions.
 */

#include "stillnet.h"
#include "stillnet_engine.h"

#define PORT ((volatile uint32_t *)0x40000000)

void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

void *memcpy(void *to, const void *from, size_t size)
{
    unsigned char *t = to;
    const unsigned char *f = from;
    while (size--) *t++ = *f++;
    return to;
}

void *memset(void *to, int value, size_t size)
{
    unsigned char *t = to;
    while (size--) *t++ = (unsigned char)value;
    return to;
}

static void write32(void *context, uint32_t offset, uint32_t value)
{
    (void)context;
    (void)offset;
    (void)value;
}

static uint32_t read32(void *context, uint32_t offset)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    (void)context;
    if (offset == 4 * STILLNET_REGISTER_ID) return STILLNET_IMAGE_MAGIC;
    if (offset == 4 * STILLNET_REGISTER_VERSION) return STILLNET_IMAGE_VERSION_NUMBER;
    if (offset == 4 * STILLNET_REGISTER_FINGERPRINT) return engine.fingerprint;
    return STILLNET_STATUS_LOADED | STILLNET_STATUS_IDLE;
}

static size_t put(void *context, const int16_t *elements, size_t count)
{
    (void)context;
    (void)elements;
    return count;
}

static size_t get(void *context, int16_t *elements, size_t count)
{
    (void)context;
    (void)elements;
    return count;
}

static int write_bytes(void *context, const uint8_t *data, size_t size)
{
    (void)context;
    while (size--) PORT[0] = *data++;
    return 0;
}

static int read_bytes(void *context, uint8_t *data, size_t size, uint32_t timeout)
{
    int count = 0;
    (void)context;
    (void)timeout;
    while (size-- && PORT[1]) data[count++] = (uint8_t)PORT[2];
    return count;
}

static uint32_t now(void *context)
{
    (void)context;
    return PORT[3];
}

extern const uint8_t image[];

void run(uint32_t is_link);
void run(uint32_t is_link)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    static const stillnet_bus bus = {
        .write32 = write32, .read32 = read32, .put = put, .get = get, .now = now,
    };
    static const stillnet_link link = {.write = write_bytes, .read = read_bytes, .now = now};
    static stillnet d;
    static int16_t x[512], y[512];
    int error = is_link ? stillnet_open_link(&d, &engine, &link)
                        : stillnet_open_bus(&d, &engine, &bus);
    if (!error) error = stillnet_attach(&d, image, 1u << 20);
    for (int k = 0; k < 3 && !error; k++) {
        PORT[4] = 0;
        error = stillnet_step(&d, x, y);
        PORT[4] = 1;
    }
    PORT[5] = (uint32_t)error;
}
