/*
 * The driver as a program that a test holds by its strings: the standard input says what to call,
 * and what the callbacks ask for goes over the standard output and is answered by the test.
 * tests/support/c_driver.py is the other end.
 */

#include "stillnet.h"
#include "stillnet_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void out(const void *data, size_t size)
{
    if (size && fwrite(data, 1, size, stdout) != size) exit(3);
}

static void in(void *data, size_t size)
{
    if (size && fread(data, 1, size, stdin) != size) exit(4);
}

static void out_number(uint32_t value)
{
    out(&value, sizeof value);
}

static uint32_t in_number(void)
{
    uint32_t value;
    in(&value, sizeof value);
    return value;
}

static void out_kind(char kind)
{
    out(&kind, 1);
}

static void *memory(size_t size) /* of exactly this size, so that the sanitizer sees its ends */
{
    void *p = malloc(size ? size : 1);
    if (!p) exit(5);
    return p;
}

/* -- callbacks ------------------------------------------------------------------------------- */

/* Comes with every answer, so that it need not be asked for. */
static uint32_t now;
static int write_result;

static void in_world(void)
{
    now = in_number();
    write_result = (int)in_number();
}

static int link_write(void *context, const uint8_t *data, size_t size)
{
    (void)context;
    out_kind('W');
    out_number((uint32_t)size);
    out(data, size);
    return write_result;
}

static int link_read(void *context, uint8_t *data, size_t size, uint32_t timeout)
{
    int count;
    (void)context;
    out_kind('R');
    out_number((uint32_t)size);
    out_number(timeout);
    fflush(stdout);
    in_world();
    count = (int)in_number();
    if (count > 0) in(data, (size_t)count);
    return count;
}

static uint32_t ask_now(void *context)
{
    (void)context;
    return now;
}

static void bus_write(void *context, uint32_t offset, uint32_t value)
{
    (void)context;
    out_kind('w');
    out_number(offset);
    out_number(value);
}

static uint32_t bus_read(void *context, uint32_t offset)
{
    (void)context;
    out_kind('r');
    out_number(offset);
    fflush(stdout);
    in_world();
    return in_number();
}

static size_t bus_put(void *context, const int16_t *elements, size_t count)
{
    (void)context;
    out_kind('p');
    out_number((uint32_t)count);
    out(elements, count * sizeof *elements);
    fflush(stdout);
    in_world();
    return in_number();
}

static size_t bus_get(void *context, int16_t *elements, size_t count)
{
    size_t done;
    (void)context;
    out_kind('g');
    out_number((uint32_t)count);
    fflush(stdout);
    in_world();
    done = in_number();
    in(elements, done * sizeof *elements);
    return done;
}

static void show_progress(void *context, uint32_t done, uint32_t total)
{
    (void)context;
    out_kind('P');
    out_number(done);
    out_number(total);
}

/* -- calls ----------------------------------------------------------------------------------- */

static void result(int error, const void *data, size_t size)
{
    out_kind('=');
    out_number((uint32_t)error);
    out_number((uint32_t)size);
    out(data, size);
    fflush(stdout);
}

static uint8_t *given_bytes(uint32_t *size)
{
    uint8_t *data;
    *size = in_number();
    data = memory(*size);
    in(data, *size);
    return data;
}

static uint8_t *image; /* stays, as the driver asks for */

static uint8_t *given_image(uint32_t *size)
{
    free(image);
    return image = given_bytes(size);
}

static void run_steps(stillnet *d, int together)
{
    const uint32_t steps = in_number();
    uint32_t size;
    int16_t *x = (int16_t *)(void *)given_bytes(&size);
    const size_t outputs = (size_t)steps * d->outputs;
    int16_t *y = memory(outputs * sizeof *y);
    int error = 0;
    for (size_t k = 0; k < outputs; k++) y[k] = 0x5555;
    if (together) {
        error = stillnet_run(d, x, y, steps);
    } else {
        for (uint32_t k = 0; k < steps && !error; k++)
            error = stillnet_step(d, x + (size_t)k * d->inputs, y + (size_t)k * d->outputs);
    }
    result(error, y, error ? 0 : outputs * sizeof *y);
    free(x);
    free(y);
}

static void move_state(stillnet *d, int set)
{
    uint32_t size = (uint32_t)(2 * stillnet_state_size(d));
    int16_t *state = (int16_t *)(void *)(set ? given_bytes(&size) : memory(size));
    const int error = set ? stillnet_set_state(d, state) : stillnet_get_state(d, state);
    result(error, state, set || error ? 0 : size);
    free(state);
}

static void describe(stillnet *d)
{
    const int error = (int)in_number();
    const size_t size = in_number();
    char *text = memory(size);
    memset(text, 'x', size);
    stillnet_describe(d, error, text, size);
    result(0, text, size ? strlen(text) : 0);
    free(text);
}

static int16_t *latest; /* of exactly the size that is asked for */

static void open_engine(stillnet *d, int link)
{
    const stillnet_engine engine = STILLNET_ENGINE;
    const uint32_t retry = in_number(), timeout = in_number(), size = in_number();
    free(latest);
    latest = memory(size * sizeof *latest);
    if (link) {
        const stillnet_link over = {
            .write = link_write, .read = link_read, .now = ask_now, .retry = retry,
            .timeout = timeout, .latest = size ? latest : NULL, .latest_size = size,
        };
        result(stillnet_open_link(d, &engine, &over), NULL, 0);
    } else {
        const stillnet_bus over = {
            .write32 = bus_write, .read32 = bus_read, .put = bus_put, .get = bus_get,
            .now = ask_now, .timeout = timeout,
        };
        result(stillnet_open_bus(d, &engine, &over), NULL, 0);
    }
}

static void call_with_image(stillnet *d, char what)
{
    uint32_t size, base;
    given_image(&size);
    base = in_number();
    if (what == 'l') result(stillnet_load(d, image, size, base, show_progress, NULL), NULL, 0);
    if (what == 's') result(stillnet_start(d, image, size, base), NULL, 0);
    if (what == 'a') result(stillnet_attach(d, image, size), NULL, 0);
    if (what == 'v') result(stillnet_verify(image, size), NULL, 0);
}

static void call(stillnet *d, char what)
{
    static int16_t x[STILLNET_WINDOW][64], y[STILLNET_WINDOW][64];
    static uint32_t sent, done;
    uint32_t values[STILLNET_COUNTERS] = {0}, a, b;
    int error;
    switch (what) {
    case 'O': open_engine(d, 1); sent = done = 0; break;
    case 'o': open_engine(d, 0); sent = done = 0; break;
    case 'l': case 's': case 'a': case 'v': call_with_image(d, what); break;
    case 'S': run_steps(d, 0); break;
    case 'N': run_steps(d, 1); break;
    case 'u': /* the vectors of a test that submits have at most 64 elements */
        in(x[sent % STILLNET_WINDOW], 2 * d->inputs);
        error = stillnet_submit(d, x[sent % STILLNET_WINDOW], y[sent % STILLNET_WINDOW]);
        if (!error) sent++;
        result(error, NULL, 0);
        break;
    case 'f':
        error = stillnet_finish(d);
        result(error, y[done % STILLNET_WINDOW], error ? 0 : 2 * d->outputs);
        if (!error) done++;
        break;
    case 'c': result(stillnet_clear(d), NULL, 0); break;
    case 'G': move_state(d, 0); break;
    case 'U': move_state(d, 1); break;
    case 'h':
        a = in_number();
        b = in_number();
        result(stillnet_set_threshold(d, a, b), NULL, 0);
        break;
    case 'C': error = stillnet_get_counters(d, values); result(error, values, sizeof values); break;
    case 'E': error = stillnet_get_events(d, in_number(), values); result(error, values, 4); break;
    case 'z': result(stillnet_clear_counters(d), NULL, 0); break;
    case 'r': error = stillnet_read(d, in_number(), values); result(error, values, 4); break;
    case 'w':
        a = in_number();
        b = in_number();
        result(stillnet_write(d, a, b), NULL, 0);
        break;
    case 'R': result(stillnet_reset(d), NULL, 0); break;
    case 'd': describe(d); break;
    case 'i':
        values[0] = d->inputs;
        values[1] = d->outputs;
        values[2] = d->clock_hz;
        values[3] = d->repeated;
        values[4] = d->resumed;
        values[5] = (uint32_t)stillnet_state_size(d);
        result(0, values, 24);
        break;
    default: exit(6);
    }
}

int main(void)
{
    stillnet *d = memory(sizeof *d);
    char what;
    memset(d, 0xa5, sizeof *d);
    while (fread(&what, 1, 1, stdin) == 1) {
        in_world();
        call(d, what);
    }
    free(image);
    free(latest);
    free(d);
    return 0;
}
