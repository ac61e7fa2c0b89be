/*
 * The driver with bytes from nowhere. A case is a string of bytes: it decides what comes back over
 * the link, in one of three ways:
 *
 *   noise   the bytes themselves are the answers;
 *   frames  every command gets a frame with the right checksum, number and kind, and any content;
 *   wire    an honest board answers over a wire that loses, adds and changes bytes.
 *
 * Every call must end, and write nothing beyond its place (the sanitizers see that). Behind the bad
 * wire, whatever the driver calls right must be right: each step done once, and in order.
 *
 * It is a target of libFuzzer. With -DFUZZ_MAIN=1, the default, a plain loop makes the cases:
 *   fuzz COUNT SEED
 */

#include "stillnet.h"
#include "stillnet_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef FUZZ_MAIN
#define FUZZ_MAIN 1
#endif

#define INPUTS 3u
#define OUTPUTS 2u
#define FIRST_UNIT 8u
#define IMAGE_BYTES (STILLNET_SLOT_BYTES * (STILLNET_HEADER_SLOTS + STILLNET_LAYER_SLOTS))
#define MOST_READS 20000u

static unsigned long opened, steps_right, repeated, errors[STILLNET_ERRORS];

static void require(int holds, const char *what)
{
    if (holds) return;
    printf("failed: %s\n", what);
    fflush(stdout);
    abort();
}

/* -- a case ---------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *data;
    size_t size, at;
} bytes;

static uint32_t next_byte(bytes *b) /* zeros when all are used */
{
    return b->at < b->size ? b->data[b->at++] : 0;
}

enum { NOISE, FRAMES, WIRE };

typedef struct {
    uint8_t kind, sequence, size_known;
    size_t size;
    uint8_t data[600];
} frame;

typedef struct {
    bytes *from;
    int mode;
    uint32_t now, reads, rate, dice;
    uint8_t out[16384]; /* to the driver */
    size_t out_size, out_at;
    uint8_t in[2200]; /* of the frame that is coming */
    size_t in_size;
    int in_escaped;
    /* The honest board. */
    uint8_t expected, session, loaded;
    uint32_t steps;
    frame replies[32];
} board;

static uint32_t dice(board *b)
{
    b->dice ^= b->dice << 13;
    b->dice ^= b->dice >> 17;
    b->dice ^= b->dice << 5;
    return b->dice;
}

/* A byte over the wire: whole, or one of the faults. */
static int wire(board *b, uint8_t *byte)
{
    if (b->mode != WIRE || dice(b) % 4096 >= b->rate) return 1;
    switch (dice(b) % 4) {
    case 0: *byte = (uint8_t)(*byte ^ 1u << dice(b) % 8); return 1;
    case 1: return 0;
    case 2: *byte = dice(b) & 1 ? STILLNET_LINK_FLAG : STILLNET_LINK_ESCAPE; return 1;
    default: return 2;
    }
}

static void to_driver(board *b, uint8_t byte)
{
    for (int n = wire(b, &byte); n && b->out_size < sizeof b->out; n--) b->out[b->out_size++] = byte;
}

static uint32_t crc_of(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    for (size_t k = 0; k < size; k++) {
        crc ^= data[k];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void send_frame(board *b, uint32_t kind, uint32_t sequence, const uint8_t *data, size_t size)
{
    uint8_t body[700];
    uint32_t crc;
    body[0] = (uint8_t)(STILLNET_LINK_VERSION_NUMBER << 4 | kind);
    body[1] = (uint8_t)sequence;
    memcpy(body + 2, data, size);
    size += 2;
    crc = crc_of(body, size);
    for (int k = 0; k < 4; k++) body[size++] = (uint8_t)(crc >> 8 * k);
    to_driver(b, STILLNET_LINK_FLAG);
    for (size_t k = 0; k < size; k++) {
        if (body[k] == STILLNET_LINK_FLAG || body[k] == STILLNET_LINK_ESCAPE) {
            to_driver(b, STILLNET_LINK_ESCAPE);
            to_driver(b, body[k] ^ STILLNET_LINK_FLIP);
        } else {
            to_driver(b, body[k]);
        }
    }
    to_driver(b, STILLNET_LINK_FLAG);
}

static void notice(board *b, uint32_t causes, uint32_t question)
{
    const uint8_t data[2] = {(uint8_t)causes, (uint8_t)question};
    send_frame(b, STILLNET_LINK_NOTICE, b->expected, data, 2);
}

/* -- an honest board ------------------------------------------------------------------------- */

static uint16_t output_of(const int16_t *x, uint32_t step, uint32_t k)
{
    uint32_t h = 2166136261u ^ step * 977u ^ k * 31u;
    for (uint32_t i = 0; i < INPUTS; i++) h = (h ^ (uint16_t)x[i]) * 16777619u;
    return (uint16_t)(h ^ h >> 16);
}

static void put32(uint8_t *p, uint32_t value)
{
    for (int k = 0; k < 4; k++) p[k] = (uint8_t)(value >> 8 * k);
}

static size_t identity(uint8_t *out, uint32_t window, uint32_t buffer)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    out[0] = STILLNET_IMAGE_VERSION_NUMBER;
    out[1] = 0;
    out[2] = (uint8_t)engine.word_bytes;
    out[3] = (uint8_t)window;
    put32(out + 4, engine.fingerprint);
    put32(out + 8, 1000000);
    put32(out + 12, buffer);
    put32(out + 16, buffer);
    memcpy(out + 20, "{}", 2);
    return 22;
}

static uint32_t register_value(const board *b, uint32_t index, uint32_t count)
{
    if (index == STILLNET_REGISTER_STATUS)
        return STILLNET_STATUS_IDLE | (b->loaded ? STILLNET_STATUS_LOADED : 0);
    if (index == STILLNET_REGISTER_STEPS) return b->steps;
    return 0x1234u + count;
}

static void write_register(board *b, uint32_t index, uint32_t value)
{
    if (index == STILLNET_REGISTER_MEMORY_DATA) b->loaded = 0;
    if (index != STILLNET_REGISTER_CONTROL) return;
    if (value & STILLNET_CONTROL_LOAD) b->loaded = 1;
    if (value & (STILLNET_CONTROL_LOAD | STILLNET_CONTROL_CLEAR)) b->steps = 0;
}

static size_t do_access(board *b, const uint8_t *p, size_t size, uint8_t *out)
{
    size_t made = 0, at = 0;
    while (at + 2 <= size) {
        const uint32_t index = p[at] & 63u, width = p[at] & 64 ? 2 : 4;
        const uint32_t count = p[at + 1] ? p[at + 1] : 256u, writes = p[at] & 128;
        at += 2;
        for (uint32_t k = 0; k < count; k++) {
            if (writes) {
                require(at + width <= size, "a list of operations is cut off");
                write_register(b, index, p[at] | (uint32_t)p[at + 1] << 8);
                at += width;
            } else {
                const uint32_t value = register_value(b, index, k);
                out[made++] = (uint8_t)value;
                out[made++] = (uint8_t)(value >> 8);
                if (width == 4) out[made++] = (uint8_t)(value >> 16);
                if (width == 4) out[made++] = (uint8_t)(value >> 24);
            }
        }
    }
    require(at == size, "a list of operations is cut off");
    return made;
}

static size_t do_step(board *b, const uint8_t *p, size_t size, uint8_t *out)
{
    int16_t x[INPUTS];
    require(size == 2 * INPUTS, "a vector has another length");
    for (uint32_t k = 0; k < INPUTS; k++)
        x[k] = (int16_t)(uint16_t)(p[2 * k] | (uint32_t)p[2 * k + 1] << 8);
    for (uint32_t k = 0; k < OUTPUTS; k++) {
        const uint16_t y = output_of(x, b->steps, k);
        out[2 * k] = (uint8_t)y;
        out[2 * k + 1] = (uint8_t)(y >> 8);
    }
    b->steps++;
    return 2 * OUTPUTS;
}

static void carry_out(board *b, uint8_t kind, const uint8_t *p, size_t size)
{
    frame *reply = &b->replies[b->expected % 32];
    uint8_t outcome = STILLNET_OUTCOME_OK;
    reply->kind = kind;
    reply->sequence = b->expected++;
    reply->size_known = 1;
    reply->size = 0;
    if (kind == STILLNET_COMMAND_HELLO) reply->size = identity(reply->data, 8, 2200);
    if (kind == STILLNET_COMMAND_ACCESS) reply->size = do_access(b, p, size, reply->data);
    if (kind == STILLNET_COMMAND_STEP) {
        if (b->loaded) reply->size = do_step(b, p, size, reply->data);
        else outcome = STILLNET_OUTCOME_NOT_LOADED;
    }
    reply->data[reply->size++] = outcome;
    send_frame(b, STILLNET_LINK_REPLY | kind, reply->sequence, reply->data, reply->size);
}

static void honest(board *b, uint8_t kind, uint8_t sequence, const uint8_t *p, size_t size)
{
    if (kind == STILLNET_COMMAND_RESUME) {
        for (uint8_t s = sequence; s != b->expected && (uint8_t)(b->expected - s) <= 32; s++) {
            const frame *r = &b->replies[s % 32];
            if (r->size_known && r->sequence == s)
                send_frame(b, STILLNET_LINK_REPLY | (uint32_t)r->kind, s, r->data, r->size);
        }
        notice(b, STILLNET_CAUSE_RESUME, size ? p[0] : 0);
    } else if (kind == STILLNET_COMMAND_RESET) {
        b->session = b->loaded = 0;
        memset(b->replies, 0, sizeof b->replies);
        notice(b, STILLNET_CAUSE_RESET, 0);
    } else if (kind == STILLNET_COMMAND_HELLO) {
        memset(b->replies, 0, sizeof b->replies);
        b->session = 1;
        b->expected = sequence;
        carry_out(b, kind, p, size);
    } else if (!b->session || (sequence != b->expected && (uint8_t)(sequence - b->expected) < 128)) {
        notice(b, STILLNET_CAUSE_GAP, 0);
    } else if (sequence == b->expected) {
        carry_out(b, kind, p, size);
    }
}

/* -- any frames ------------------------------------------------------------------------------ */

static void dishonest(board *b, uint8_t kind, uint8_t sequence)
{
    uint8_t data[600] = {0};
    const uint32_t what = next_byte(b->from);
    size_t size;
    if (what < 40) return;
    if (what < 80) { /* a notice with any content */
        b->expected = (uint8_t)(sequence + next_byte(b->from) % 12 - 4);
        notice(b, next_byte(b->from), next_byte(b->from));
    }
    if (kind >= STILLNET_COMMAND_RESUME) return;
    if (kind == STILLNET_COMMAND_HELLO && what < 240) {
        size = identity(data, next_byte(b->from), next_byte(b->from) * (what & 1 ? 1u : 40u));
    } else {
        size = what & 3 ? (what & 4 ? 4u : 2 * OUTPUTS) : next_byte(b->from);
        for (size_t k = 0; k < size; k++) data[k] = (uint8_t)next_byte(b->from);
        if (what & 8) data[0] |= STILLNET_STATUS_LOADED | STILLNET_STATUS_IDLE;
    }
    data[size++] = what & 16 ? 0 : (uint8_t)next_byte(b->from);
    send_frame(b, STILLNET_LINK_REPLY | kind, sequence, data, size);
}

/* -- the callbacks --------------------------------------------------------------------------- */

static void take_frame(board *b)
{
    const size_t size = b->in_size;
    b->in_size = 0;
    b->in_escaped = 0;
    if (!size) return;
    if (size < 6 || size > sizeof b->in || crc_of(b->in, size - 4) !=
        (b->in[size - 4] | (uint32_t)b->in[size - 3] << 8 | (uint32_t)b->in[size - 2] << 16 |
         (uint32_t)b->in[size - 1] << 24)) {
        require(b->mode == WIRE, "a frame of the driver is damaged");
        notice(b, STILLNET_CAUSE_CHECK, 0);
        return;
    }
    if (b->mode == WIRE) honest(b, b->in[0] & 15, b->in[1], b->in + 2, size - 6);
    if (b->mode == FRAMES) dishonest(b, b->in[0] & 15, b->in[1]);
}

static int on_write(void *context, const uint8_t *data, size_t size)
{
    board *b = context;
    for (size_t k = 0; k < size; k++) {
        uint8_t byte = data[k];
        for (int n = wire(b, &byte); n; n--) {
            if (byte == STILLNET_LINK_FLAG) take_frame(b);
            else if (byte == STILLNET_LINK_ESCAPE) b->in_escaped = 1;
            else if (b->in_size < sizeof b->in) {
                b->in[b->in_size++] = (uint8_t)(b->in_escaped ? byte ^ STILLNET_LINK_FLIP : byte);
                b->in_escaped = 0;
            }
        }
    }
    return b->mode == NOISE && next_byte(b->from) == 255 ? -1 : 0;
}

static int on_read(void *context, uint8_t *data, size_t size, uint32_t timeout)
{
    board *b = context;
    size_t count = 0;
    require(++b->reads < MOST_READS, "the driver does not end");
    if (b->mode == NOISE) {
        const uint32_t wanted = next_byte(b->from);
        if (wanted == 255) return -1;
        while (count < size && count < wanted % 80 && b->from->at < b->from->size)
            data[count++] = (uint8_t)next_byte(b->from);
    } else {
        const size_t most = 1 + dice(b) % size;
        while (count < most && b->out_at < b->out_size) data[count++] = b->out[b->out_at++];
        if (b->out_at == b->out_size) b->out_at = b->out_size = 0;
    }
    b->now += count ? 1 : timeout + 1;
    return (int)count;
}

static uint32_t on_now(void *context)
{
    const board *b = context;
    return b->now;
}

/* -- the program that uses the driver -------------------------------------------------------- */

static uint8_t image[IMAGE_BYTES];

static void set_field(uint32_t slot, uint32_t shift, uint32_t width, uint32_t value)
{
    uint8_t *p = image + (size_t)slot * STILLNET_SLOT_BYTES;
    const uint32_t old = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    (void)width;
    put32(p, old | value << shift);
}
#define SET(group, field, value) set_field_of(group, field, value)
static void set_field_of(uint32_t group, uint32_t slot, uint32_t shift, uint32_t width, uint32_t v)
{
    set_field(group + slot, shift, width, v);
}

static void make_image(void)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    memset(image, 0, sizeof image);
    SET(0, STILLNET_HEADER_MAGIC, STILLNET_IMAGE_MAGIC);
    SET(0, STILLNET_HEADER_VERSION, STILLNET_IMAGE_VERSION_NUMBER);
    SET(0, STILLNET_HEADER_LAYERS, 1);
    SET(0, STILLNET_HEADER_FINGERPRINT, engine.fingerprint);
    SET(0, STILLNET_HEADER_WORDS, IMAGE_BYTES / engine.word_bytes);
    SET(0, STILLNET_HEADER_INPUTS, INPUTS);
    SET(STILLNET_HEADER_SLOTS, STILLNET_LAYER_UNITS, OUTPUTS);
    SET(STILLNET_HEADER_SLOTS, STILLNET_LAYER_UNIT_BASE, FIRST_UNIT);
}

static int noted(int error)
{
    require(error >= 0 && error < STILLNET_ERRORS, "an error without a number");
    errors[error]++;
    return error;
}

/* Steps whose results are held against the board's own. */
static int right_steps(stillnet *d, const board *b, uint32_t *done, uint32_t count)
{
    int16_t x[6 * INPUTS], y[6 * OUTPUTS];
    int error;
    count = 1 + count % 6;
    for (uint32_t k = 0; k < count * INPUTS; k++) x[k] = (int16_t)(k * 771 + *done);
    error = noted(stillnet_run(d, x, y, count));
    if (error == STILLNET_GONE || error == STILLNET_LOST || error == STILLNET_STUCK)
        require(!d->image || d->unknown || !d->connected, "steps were lost and nobody says so");
    if (error || b->mode != WIRE) return error;
    for (uint32_t s = 0; s < count; s++)
        for (uint32_t k = 0; k < OUTPUTS; k++)
            require((uint16_t)y[s * OUTPUTS + k] == output_of(x + s * INPUTS, *done + s, k),
                    "an output is wrong");
    *done += count;
    steps_right += count;
    return error;
}

static int any_call(stillnet *d, board *b, uint32_t what, uint32_t *done)
{
    int16_t state[64] = {0};
    uint32_t values[STILLNET_COUNTERS];
    int error;
    require(!d->image || stillnet_state_size(d) <= 64, "the state has another size");
    switch (what % 8) {
    case 0:
        error = noted(stillnet_clear(d));
        if (!error) *done = 0;
        return error;
    case 1:
        error = noted(stillnet_get_counters(d, values));
        if (!error && b->mode == WIRE)
            require(values[STILLNET_COUNTER_STEPS] == *done, "steps were lost or done twice");
        return error;
    case 2: return noted(stillnet_get_state(d, state));
    case 3:
        error = noted(stillnet_set_state(d, state));
        if (!error) *done = 0; /* it clears first */
        return error;
    case 4: return noted(stillnet_set_threshold(d, 1, what));
    default: return right_steps(d, b, done, what);
    }
}

static void use(stillnet *d, board *b, const stillnet_link *link)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    uint32_t done = 0;
    char text[80];
    int error = noted(stillnet_open_link(d, &engine, link));
    if (error) return;
    opened++;
    error = noted(stillnet_load(d, image, sizeof image, 0, NULL, NULL));
    for (int k = 0; k < 6; k++) {
        if (error) { /* after a loss nothing is known until the sequence begins anew */
            stillnet_describe(d, error, text, sizeof text);
            require(strlen(text) > 5, "an error has no sentence");
            error = noted(stillnet_load(d, image, sizeof image, 0, NULL, NULL));
            done = 0;
            continue;
        }
        error = any_call(d, b, b->mode == WIRE ? dice(b) % 64 : next_byte(b->from), &done);
        if (d->unknown) {
            int16_t x[INPUTS] = {0}, y[OUTPUTS];
            require(noted(stillnet_step(d, x, y)), "a step of which nothing is known");
        }
    }
    repeated += d->repeated + d->resumed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static board b;
    static const uint32_t rates[8] = {0, 4, 10, 20, 40, 80, 300, 1500};
    bytes from = {data, size, 0};
    stillnet *d = malloc(sizeof *d);
    const uint32_t first = next_byte(&from);
    const stillnet_link link = {
        .write = on_write, .read = on_read, .now = on_now, .context = &b, .retry = 5, .timeout = 80,
    };
    if (!d) return 0;
    memset(&b, 0, sizeof b);
    make_image();
    b.from = &from;
    b.mode = (int)(first % 3);
    b.rate = rates[first / 3 % 8];
    b.dice = 1u | next_byte(&from) << 8 | next_byte(&from) << 16 | next_byte(&from) << 24;
    b.now = 0xfffffff0u; /* the clock wraps around soon */
    use(d, &b, &link);
    free(d);
    return 0;
}

#if FUZZ_MAIN
int main(int count, char **words)
{
    const unsigned long cases = count > 1 ? strtoul(words[1], NULL, 10) : 1000;
    uint32_t state = count > 2 ? (uint32_t)strtoul(words[2], NULL, 10) * 2654435761u + 1 : 1;
    unsigned long kinds = 0;
    for (unsigned long k = 0; k < cases; k++) {
        uint8_t data[400];
        size_t size;
        for (size_t i = 0; i < sizeof data; i++) {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            data[i] = (uint8_t)(state >> 11);
        }
        size = 8 + (size_t)(data[399] * 3 / 2);
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("cases: %lu\nopened: %lu\nsteps: %lu\nrepeated: %lu\n", cases, opened, steps_right,
           repeated);
    for (int e = 1; e < STILLNET_ERRORS; e++) {
        if (!errors[e]) continue;
        kinds++;
        printf("error %d seen %lu times\n", e, errors[e]);
    }
    printf("errors: %lu\n", kinds);
    return 0;
}
#endif
