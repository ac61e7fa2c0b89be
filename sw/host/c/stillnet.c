/*
 * See stillnet.h. From the bottom up: frames, the session of a link, the streams of a bus, and what
 * is the same for both.
 *
 * A command without its answer is a job. Jobs lie in a ring: first those that are answered, then
 * those that are not. A job holds what its frame is made from and no frame, so that it can be sent
 * again without a buffer; an answer goes straight to where the caller wants it, and counts once its
 * checksum is right.
 *
 * Vectors travel as changes where the program gives memory for the latest ones. That of the input is
 * as it was when the oldest job without an answer was sent. What younger jobs changed in it is
 * worked out from their vectors each time that it is needed, so a frame that is sent again is the same.
 */

#include "stillnet.h"

#define RETRY 250u
#define TIMEOUT 10000u
#define FRAME_BYTES (STILLNET_LINK_HEADER_BYTES + STILLNET_LINK_TRAILER_BYTES)
#define CHUNK 64u        /* bytes for one call of `read` or `write` */
#define BLOCK_BYTES 1024u
#define NO_REGISTER 0xffu
#define WRITE 0x80u
#define HALF 0x40u
#define RUN 256u         /* accesses of one operation */
#define NONE 0xffffffffu /* no sequence */
#define LENGTH_LIMIT 0x40000000u

#define OTHER_LENGTH 0xffu /* an outcome that no board sends */
#define TAIL 4u            /* bytes behind the one that may be the outcome */

#if STILLNET_LINK && STILLNET_BUS
#define IS_LINK(d) ((d)->is_link)
#else
#define IS_LINK(d) STILLNET_LINK
#endif

#define CHANGES (STILLNET_LINK && STILLNET_CHANGES)

static const stillnet_job no_job = {0};

/* -- numbers --------------------------------------------------------------------------------- */

static uint32_t crc_byte(uint32_t crc, uint8_t byte)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    crc ^= byte;
    crc = table[crc & 15] ^ (crc >> 4);
    return table[crc & 15] ^ (crc >> 4);
}

#define CRC_RIGHT 0xdebb20e3u /* what is left after bytes and their checksum */

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t pair(const uint16_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 16;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* A field of the image: `slot` counts from the group that begins at slot `group`. */
static uint32_t field(const uint8_t *image, uint32_t group, uint32_t slot, uint32_t shift,
                      uint32_t width)
{
    const uint32_t word = get32(image + (size_t)(group + slot) * STILLNET_SLOT_BYTES) >> shift;
    return width < 32 ? word & ((1u << width) - 1) : word;
}

static uint32_t layer_group(uint32_t layer)
{
    return STILLNET_HEADER_SLOTS + layer * STILLNET_LAYER_SLOTS;
}

/* -- errors ---------------------------------------------------------------------------------- */

static int fail(stillnet *d, int error, uint32_t first, uint32_t second)
{
    d->detail[0] = first;
    d->detail[1] = second;
    return error;
}

static int is_step(const stillnet_job *j)
{
    return j->kind == STILLNET_COMMAND_STEP || j->kind == STILLNET_COMMAND_CHANGE;
}

/* The session has ended; what was on its way is given up. */
static int lose(stillnet *d, int error)
{
    for (uint32_t k = 0; k < d->count; k++)
        if (is_step(&d->jobs[(d->head + k) % STILLNET_WINDOW])) d->unknown = 1;
    d->count = d->answered = d->given = 0;
    d->connected = d->based = 0;
    if (d->unknown) d->followed = 0;
    return error;
}

/* What the board's encoder has passed on is not known, nor whether the board has the vector. */
static void forget(stillnet *d)
{
    d->based = d->followed = 0;
}

static uint32_t clock_now(const stillnet *d)
{
    return d->now(d->context);
}

static stillnet_job *job_at(stillnet *d, uint32_t place)
{
    return &d->jobs[(d->head + place) % STILLNET_WINDOW];
}

/* Bytes that a job takes in the board's buffers, of its command and of the reply. */
static uint32_t command_bytes(const stillnet_job *j)
{
    uint32_t size = STILLNET_LINK_HEADER_BYTES + j->source_bytes;
    if (j->kind == STILLNET_COMMAND_ACCESS) size += j->first == NO_REGISTER ? 2 : 8;
    return size;
}

static uint32_t reply_bytes(const stillnet_job *j)
{
    return STILLNET_LINK_HEADER_BYTES + 1 + j->sink_bytes;
}

/* -- frames out ------------------------------------------------------------------------------ */

typedef struct {
    stillnet *d;
    uint32_t crc, used, bits, count, zeros;
    int failed;
    uint8_t data[CHUNK];
} frame_out;

static void out_flush(frame_out *o)
{
    if (o->used && !o->failed)
        o->failed = o->d->link.write(o->d->context, o->data, o->used) < 0;
    o->used = 0;
}

static void out_raw(frame_out *o, uint8_t byte)
{
    if (o->used == CHUNK) out_flush(o);
    o->data[o->used++] = byte;
}

static void out_byte(frame_out *o, uint32_t value)
{
    const uint8_t byte = (uint8_t)value;
    o->crc = crc_byte(o->crc, byte);
    if (byte == STILLNET_LINK_FLAG || byte == STILLNET_LINK_ESCAPE) {
        out_raw(o, STILLNET_LINK_ESCAPE);
        out_raw(o, (uint8_t)(byte ^ STILLNET_LINK_FLIP));
    } else {
        out_raw(o, byte);
    }
}

static void out_begin(frame_out *o, stillnet *d, uint32_t kind, uint32_t sequence)
{
    o->d = d;
    o->crc = 0xffffffffu;
    o->used = 0;
    o->failed = 0;
    out_raw(o, STILLNET_LINK_FLAG);
    out_byte(o, (uint32_t)STILLNET_LINK_VERSION_NUMBER << 4 | kind);
    out_byte(o, sequence);
}

static void out_word(frame_out *o, uint32_t value)
{
    for (uint32_t k = 0; k < 32; k += 8) out_byte(o, value >> k);
}

static int out_end(frame_out *o)
{
    out_word(o, ~o->crc);
    out_raw(o, STILLNET_LINK_FLAG);
    out_flush(o);
    return o->failed ? STILLNET_GONE : STILLNET_OK;
}

/* -- vectors as their changes ---------------------------------------------------------------- */

#if CHANGES
/* A part of an entry of a table. */
static uint32_t entry(const uint8_t *table, uint32_t slot, uint32_t shift, uint32_t width)
{
    return field(table, 0, slot, shift, width);
}

/* An element as the board is told it: as it was where its encoder would not pass on the new one. */
static int32_t heard(const stillnet *d, uint32_t element, int32_t before, int32_t x)
{
    const uint32_t change = (uint32_t)(x < before ? before - x : x - before);
    if (!d->followed) return x;
    if (change < d->threshold) return before;
    if (d->thresholds && change < entry(d->thresholds + 4 * (size_t)element, STILLNET_ENTRY_VALUE))
        return before;
    return x;
}

/* The vector of the job at a place, or an output that has come, beside the one before it. */
typedef struct {
    stillnet *d;
    const uint16_t *output;
    uint32_t place, count;
} vector;

static int32_t told(const vector *v, uint32_t element, int32_t *before)
{
    stillnet *d = v->d;
    int32_t now = *before = d->link.latest[element];
    for (uint32_t k = d->answered; k <= v->place; k++) {
        *before = now;
        now = heard(d, element, now, ((const int16_t *)job_at(d, k)->source)[element]);
    }
    return now;
}

static uint32_t change_of(const vector *v, uint32_t element)
{
    int32_t now, before;
    if (v->output)
        return (uint32_t)v->output[element] - (uint32_t)v->d->link.latest[v->d->inputs + element];
    now = told(v, element, &before);
    return (uint32_t)(now - before);
}

typedef struct { /* a block of elements; `last`: the change of the element before it */
    uint32_t count, bits, changed, last;
    uint16_t coded[STILLNET_CHANGES_BLOCK];
} block;

static void code_block(const vector *v, uint32_t first, uint32_t form, block *b)
{
    uint32_t all = 0, width = 0;
    b->count = smaller(STILLNET_CHANGES_BLOCK, v->count - first);
    b->changed = 0;
    for (uint32_t k = 0; k < b->count; k++) {
        const uint32_t change = change_of(v, first + k);
        const uint32_t rest = change - (form & STILLNET_CHANGES_SLOPE ? b->last : 0);
        b->coded[k] = (uint16_t)(rest << 1 ^ (rest & 0x8000u ? 0xffffu : 0u));
        if (b->coded[k]) b->changed |= 1u << k;
        all |= b->coded[k];
        b->last = change;
    }
    while (all >> width) width++;
    b->bits = width < STILLNET_CHANGES_FULL_WIDTH ? width : STILLNET_CHANGES_ELEMENT_BITS;
}

/* The form in which the list is shortest, and its bytes. */
static uint32_t best_form(const vector *v, uint32_t *bytes)
{
    uint32_t best = 0, least = NONE;
    for (uint32_t slope = 0; slope <= STILLNET_CHANGES_SLOPE; slope += STILLNET_CHANGES_SLOPE) {
        uint32_t plain = 0, masked = 0;
        block b = {0};
        for (uint32_t at = 0; at < v->count; at += STILLNET_CHANGES_BLOCK) {
            code_block(v, at, slope, &b);
            plain += STILLNET_CHANGES_WIDTH_BITS + b.bits * b.count;
            masked += STILLNET_CHANGES_WIDTH_BITS + (b.bits ? STILLNET_CHANGES_BLOCK : 0u);
            for (uint32_t k = 0; k < b.count; k++) masked += b.changed >> k & 1 ? b.bits : 0;
        }
        if (plain < least) least = plain, best = slope;
        if (masked < least) least = masked, best = slope | STILLNET_CHANGES_MASKED;
    }
    *bytes = 1 + (least + 7) / 8;
    return best;
}

/* Bytes of a list in any form. */
static uint32_t most_bytes(uint32_t count)
{
    const uint32_t blocks = (count + STILLNET_CHANGES_BLOCK - 1) / STILLNET_CHANGES_BLOCK;
    const uint32_t bits = STILLNET_CHANGES_ELEMENT_BITS * count +
                          (STILLNET_CHANGES_WIDTH_BITS + STILLNET_CHANGES_BLOCK) * blocks;
    return 1 + (bits + 7) / 8;
}

/* Zeros at the end of a list are not sent. */
static void out_bits(frame_out *o, uint32_t value, uint32_t width)
{
    o->bits |= value << o->count;
    for (o->count += width; o->count >= 8; o->count -= 8, o->bits >>= 8) {
        if (!(o->bits & 0xffu)) {
            o->zeros++;
            continue;
        }
        for (; o->zeros; o->zeros--) out_byte(o, 0);
        out_byte(o, o->bits);
    }
}

static void out_vector(frame_out *o, const stillnet_job *j)
{
    const uint32_t masked = j->value & STILLNET_CHANGES_MASKED;
    stillnet *d = o->d;
    const uint32_t slot = (uint32_t)(j - d->jobs);
    const vector v = {d, NULL, (slot + STILLNET_WINDOW - d->head) % STILLNET_WINDOW, d->inputs};
    int32_t before;
    block b = {0};
    if (j->kind == STILLNET_COMMAND_STEP) {
        for (uint32_t k = 0; k < v.count; k++) {
            const uint32_t element = (uint32_t)told(&v, k, &before);
            out_byte(o, element);
            out_byte(o, element >> 8);
        }
        return;
    }
    out_byte(o, j->value);
    o->bits = o->count = o->zeros = 0;
    for (uint32_t at = 0; at < v.count; at += STILLNET_CHANGES_BLOCK) {
        code_block(&v, at, j->value, &b);
        out_bits(o, smaller(b.bits, STILLNET_CHANGES_FULL_WIDTH), STILLNET_CHANGES_WIDTH_BITS);
        if (!b.bits) continue;
        if (masked) out_bits(o, b.changed, STILLNET_CHANGES_BLOCK);
        for (uint32_t k = 0; k < b.count; k++)
            if (!masked || b.coded[k]) out_bits(o, b.coded[k], b.bits);
    }
    out_bits(o, 0, 7);
}

/* Takes what is complete of a list; at its end zeros follow. */
static void read_changes(stillnet *d, uint16_t *sink, int ended)
{
    enum { WIDTH, PRESENT, ELEMENTS };
    stillnet_reader *r = &d->reader;
    while (r->element < d->outputs) {
        uint32_t need = STILLNET_CHANGES_WIDTH_BITS, value;
        if (r->known == PRESENT) need = STILLNET_CHANGES_BLOCK;
        if (r->known == ELEMENTS)
            need = r->present >> r->element % STILLNET_CHANGES_BLOCK & 1 ? r->width : 0;
        if (r->count < need && !ended) return;
        value = r->bits & ((1u << need) - 1);
        r->bits >>= need;
        r->count -= smaller(need, r->count);
        if (r->known == WIDTH) {
            r->width = value < STILLNET_CHANGES_FULL_WIDTH ? value : STILLNET_CHANGES_ELEMENT_BITS;
            r->present = value ? 0xffu : 0;
            r->known = value && r->form & STILLNET_CHANGES_MASKED ? PRESENT : ELEMENTS;
        } else if (r->known == PRESENT) {
            r->present = value;
            r->known = ELEMENTS;
        } else {
            const uint32_t rest = value >> 1 ^ (0u - (value & 1));
            r->change = rest + (r->form & STILLNET_CHANGES_SLOPE ? r->change : 0);
            sink[r->element] =
                (uint16_t)((uint32_t)d->link.latest[d->inputs + r->element] + r->change);
            if (++r->element % STILLNET_CHANGES_BLOCK == 0) r->known = WIDTH;
        }
    }
}

/* A byte of an answer, if it is one to a CHANGE: the form, then the list. */
static void take_change(stillnet *d, uint32_t at, uint32_t byte)
{
    const stillnet_job *j = job_at(d, d->answered);
    stillnet_reader *r = &d->reader;
    if (j->kind != STILLNET_COMMAND_CHANGE) return;
    if (!at) {
        const stillnet_reader fresh = {0};
        *r = fresh;
        r->form = byte;
        return;
    }
    if (r->element == d->outputs) return;
    r->bits |= byte << r->count;
    r->count += 8;
    read_changes(d, j->sink, 0);
}

static int ends_well(stillnet *d, const stillnet_job *j, uint32_t size)
{
    if (!size || d->reader.form > (STILLNET_CHANGES_MASKED | STILLNET_CHANGES_SLOPE)) return 0;
    read_changes(d, j->sink, 1);
    return 1;
}

/* The oldest step has its answer: its vectors are the latest. */
static void keep_latest(stillnet *d, const stillnet_job *j)
{
    const vector v = {d, j->sink, 0, d->outputs};
    if (!d->changing) return;
    for (uint32_t k = 0; k < d->inputs; k++)
        d->link.latest[k] =
            (int16_t)heard(d, k, d->link.latest[k], ((const int16_t *)j->source)[k]);
    if (j->kind == STILLNET_COMMAND_CHANGE) d->wanted = best_form(&v, &d->wanted_bytes);
    for (uint32_t k = 0; k < d->outputs; k++)
        d->link.latest[d->inputs + k] = (int16_t)j->sink[k];
}

/* A step that is to be given: as changes, where that is shorter. */
static void choose_form(stillnet *d, stillnet_job *j)
{
    const vector v = {d, NULL, d->count, d->inputs};
    uint32_t bytes, form;
    if (d->based) {
        *job_at(d, d->count) = *j;
        form = best_form(&v, &bytes);
        if (bytes + d->wanted_bytes < 2 * d->inputs + 2 * d->outputs) {
            j->kind = STILLNET_COMMAND_CHANGE;
            j->value = form | d->wanted << STILLNET_CHANGES_WANTED_SHIFT;
            j->source_bytes = bytes;
            return;
        }
    }
    j->sink_bytes = 2 * d->outputs;
    d->wanted_bytes = 0;
    d->based = 1;
}

/* The input is all zero, and so is what the board's encoder has passed on. */
static void begin_sequence(stillnet *d)
{
    if (d->changing)
        for (uint32_t k = 0; k < d->inputs; k++) d->link.latest[k] = 0;
    d->based = 0;
    d->followed = d->exact;
}

/* Tables of the image that decide which elements of the input are passed on. */
static void learn_tables(stillnet *d, const uint8_t *image)
{
    const uint32_t slots = field(image, 0, STILLNET_HEADER_TABLE_SLOTS);
    const uint32_t before = layer_group(field(image, 0, STILLNET_HEADER_LAYERS)) +
                            d->engine.matrix_slots * field(image, 0, STILLNET_HEADER_MATRICES);
    const uint32_t all = field(image, 0, STILLNET_HEADER_WORDS);
    const uint32_t entries = slots * (STILLNET_SLOT_BYTES / 4);
    const uint8_t *table = image + (size_t)before * STILLNET_SLOT_BYTES;
    if (before + slots > (uint64_t)all * d->engine.word_bytes / STILLNET_SLOT_BYTES) d->exact = 0;
    for (uint32_t k = 0; k < entries && d->exact; k++, table += 4) {
        const uint32_t kind = entry(table, STILLNET_ENTRY_TABLE);
        if (!entry(table, STILLNET_ENTRY_FIRST)) continue;
        if (kind == STILLNET_TABLE_INPUT_THRESHOLDS && entries - k >= d->inputs)
            d->thresholds = table;
        if (kind == STILLNET_TABLE_BUDGETS && entry(table, STILLNET_ENTRY_VALUE)) d->exact = 0;
    }
}
#else
static void begin_sequence(stillnet *d)
{
    forget(d);
}
#endif

/* An image runs. `known`: with its own thresholds, from cleared state. */
static void begin_vectors(stillnet *d, const uint8_t *image, int known)
{
#if CHANGES
    const uint32_t inputs = d->inputs, outputs = d->outputs, most = d->changes;
    d->changing = IS_LINK(d) && d->link.latest && d->link.latest_size >= (size_t)inputs + outputs &&
                  inputs <= most && outputs <= most &&
                  STILLNET_LINK_HEADER_BYTES + most_bytes(outputs) + 1 <= d->reply_bytes;
    d->exact = known && d->changing &&
               field(image, 0, STILLNET_HEADER_INPUT_MODE) == STILLNET_DELTA_MODE;
    d->threshold = field(image, 0, STILLNET_HEADER_INPUT_THRESHOLD);
    d->thresholds = NULL;
    if (d->exact) learn_tables(d, image);
#else
    (void)known;
#endif
    d->image = image;
    d->unknown = 0;
    begin_sequence(d);
}

static int send_control(stillnet *d, uint32_t kind, uint32_t sequence, uint32_t question)
{
    frame_out o;
    out_begin(&o, d, kind, sequence);
    if (question != NONE) out_byte(&o, question);
    return out_end(&o);
}

static int send_job(stillnet *d, const stillnet_job *j)
{
    frame_out o;
    out_begin(&o, d, j->kind, j->sequence);
    if (j->kind == STILLNET_COMMAND_ACCESS) {
        if (j->first != NO_REGISTER) {
            out_byte(&o, WRITE | j->first);
            out_byte(&o, 1);
            out_word(&o, j->first_value);
        }
        out_byte(&o, j->second);
        out_byte(&o, j->count); /* 256 is sent as 0 */
    }
#if CHANGES
    if (is_step(j) && d->changing) {
        out_vector(&o, j);
        return out_end(&o);
    }
#endif
    for (uint32_t k = 0; k < j->source_bytes; k++) {
        if (!j->source)
            out_byte(&o, k < 4 ? j->value >> 8 * k : 0);
        else if (j->bytes)
            out_byte(&o, ((const uint8_t *)j->source)[k]);
        else
            out_byte(&o, (uint32_t)((const uint16_t *)j->source)[k >> 1] >> 8 * (k & 1));
    }
    return out_end(&o);
}

/* -- the session of a link ------------------------------------------------------------------- */

/* Asks which command the board expects, and for the replies from number `oldest` on. */
static int ask(stillnet *d, uint32_t oldest)
{
    const uint32_t slot = ++d->question % STILLNET_QUESTIONS;
    d->resumed++;
    d->resumed_from = oldest;
    d->asked[slot] = d->place++;
    d->asked_open |= 1u << slot;
    return send_control(d, STILLNET_COMMAND_RESUME, oldest, d->question & 0xffu);
}

static void begin_waiting(stillnet *d)
{
    d->heard = d->framed = d->progress = d->waited = clock_now(d);
    d->alive = 0;
    d->repeated_from = d->resumed_from = NONE;
    d->wait = d->retry;
}

/* The place of what was sent before a question that is answered for the first time. */
static int question_asked(stillnet *d, uint32_t question, uint32_t *place)
{
    const uint32_t slot = question % STILLNET_QUESTIONS;
    if (((d->question - question) & 0xffu) >= STILLNET_QUESTIONS) return 0;
    if (!(d->asked_open >> slot & 1)) return 0;
    d->asked_open &= ~(1u << slot);
    *place = d->asked[slot];
    return 1;
}

/* The board says which command it expects next: what it has not got is sent again. */
static void take_notice(stillnet *d)
{
    const uint32_t expected = d->frame[1], causes = d->frame[2];
    const uint32_t unanswered = d->count - d->answered;
    uint32_t accepted, oldest, place = 0;
    int asked;

    d->alive = 1;
    if (!d->connected) return;
    asked = causes & STILLNET_CAUSE_RESUME && question_asked(d, d->frame[3], &place);
    if (!unanswered) return;
    oldest = job_at(d, d->answered)->sequence;
    accepted = (expected - oldest) & 0xffu;
    if (accepted > unanswered) {
        /* Of the past: an answer has overtaken it. But an answer to our question is never old. */
        if (causes & STILLNET_CAUSE_RESUME && d->resumed_from == oldest)
            d->fault = STILLNET_RESTARTED;
        return;
    }
    if (accepted == unanswered) return;
    if (asked) {
        /* Of what was sent before the question, all that has not arrived is lost. */
        if ((int32_t)(job_at(d, d->answered + accepted)->place - place) > 0) return;
    } else if (d->repeated_from == expected) {
        return; /* frames after the one that was lost; all of them are on their way again */
    }
    d->repeated_from = expected;
    for (uint32_t k = accepted; k < unanswered; k++) {
        stillnet_job *j = job_at(d, d->answered + k);
        j->place = d->place++;
        d->repeated++;
        if (send_job(d, j)) d->fault = STILLNET_GONE;
    }
}

static void take_reply(stillnet *d)
{
    stillnet_job *j = job_at(d, d->answered);
    const uint32_t size = d->length - FRAME_BYTES - 1; /* less the outcome */
    int right = j->kind == STILLNET_COMMAND_HELLO ? size >= j->sink_bytes : size == j->sink_bytes;
    j->outcome = d->outcome;
#if CHANGES
    if (j->kind == STILLNET_COMMAND_CHANGE) right = ends_well(d, j, size);
    if (is_step(j) && right && j->outcome == STILLNET_OUTCOME_OK) keep_latest(d, j);
#endif
    if (d->outcome == STILLNET_OUTCOME_OK && !right) {
        j->outcome = OTHER_LENGTH;
        j->value = size;
    }
    if (is_step(j) && j->outcome != STILLNET_OUTCOME_OK) forget(d), d->exact = 0;
    d->receive_used -= command_bytes(j);
    d->reply_used -= reply_bytes(j);
    d->answered++;
    if (d->connected) begin_waiting(d);
}

/* The flag that ends a frame, or begins one. */
static void take_end(stillnet *d)
{
    const uint32_t begun = d->begun, escaped = d->escaped, bad = d->bad;
    const uint32_t kind = d->frame[0] & 15u, length = d->length;
    d->begun = d->escaped = d->bad = 0;
    if (!begun) return;
    if (bad || escaped || length < FRAME_BYTES || d->crc != CRC_RIGHT) {
        d->damaged++;
        return;
    }
    if (d->frame[0] >> 4 != STILLNET_LINK_VERSION_NUMBER) {
        d->other_version = 0x80u | d->frame[0] >> 4;
        return;
    }
    d->framed = d->heard;
    if (kind == STILLNET_LINK_NOTICE) {
        if (length == FRAME_BYTES + 2) take_notice(d);
    } else if (d->matches && length > FRAME_BYTES) {
        take_reply(d);
    }
}

/* Whether a frame that begins answers the oldest command: then its content goes to the caller. */
static uint32_t is_answer(stillnet *d)
{
    const stillnet_job *j = job_at(d, d->answered);
    if (!(d->connected || d->greeting) || d->answered == d->count) return 0;
    return d->frame[1] == j->sequence &&
           d->frame[0] == (STILLNET_LINK_VERSION_NUMBER << 4 | STILLNET_LINK_REPLY | j->kind);
}

#if CHANGES
/* Of the identity behind its numbers: how long vectors may be that go as changes. */
static void take_description(stillnet *d, uint32_t byte)
{
    static const char key[] = "\"changes\":";
    const uint32_t size = sizeof key - 1, digit = byte - '0';
    if (!d->matched) d->changes = 0;
    if (d->matched < size)
        d->matched = byte == (uint8_t)key[d->matched] ? d->matched + 1 : byte == (uint8_t)key[0];
    else if (d->matched == size && digit < 10 && d->changes < LENGTH_LIMIT / 16)
        d->changes = 10 * d->changes + digit;
    else
        d->matched = size + 1;
}
#endif

static void take_byte(stillnet *d, uint8_t byte)
{
    uint32_t at;
    if (byte == STILLNET_LINK_FLAG) {
        take_end(d);
        return;
    }
    if (!d->begun) {
        d->begun = 1;
        d->matches = 0;
        d->length = 0;
        d->tail = 0;
        d->crc = 0xffffffffu;
    }
    if (byte == STILLNET_LINK_ESCAPE) {
        if (d->escaped) d->bad = 1;
        d->escaped = 1;
        return;
    }
    if (d->escaped) {
        d->escaped = 0;
        byte = (uint8_t)(byte ^ STILLNET_LINK_FLIP);
        if (byte != STILLNET_LINK_FLAG && byte != STILLNET_LINK_ESCAPE) d->bad = 1;
    }
    if (d->bad) return;
    d->crc = crc_byte(d->crc, byte);
#if CHANGES
    /* The byte in front of what may be the outcome and the checksum. */
    if (d->length > 2 + TAIL && d->matches) take_change(d, d->length - 3 - TAIL, d->outcome);
    if (d->length == 2) d->matched = 0;
    if (d->greeting && d->length >= 2 && d->matches) take_description(d, byte);
#endif
    d->outcome = d->tail >> 24;
    d->tail = d->tail << 8 | byte;
    at = d->length++;
    if (at < sizeof d->frame) d->frame[at] = byte;
    if (at == 1) d->matches = is_answer(d);
    if (at >= 2 && d->matches) {
        const stillnet_job *j = job_at(d, d->answered);
        at -= 2;
        if (j->kind == STILLNET_COMMAND_CHANGE) {
            /* taken above */
        } else if (at < j->sink_bytes) {
            uint16_t *place = &j->sink[at >> 1];
            *place = (uint16_t)(at & 1 ? (*place & 0xffu) | (uint32_t)byte << 8 : byte);
        }
    }
    if (d->length > LENGTH_LIMIT) d->bad = 1;
}

/* Waits for bytes, at most `timeout`, and takes them. */
static int take_bytes(stillnet *d, uint32_t timeout)
{
    uint8_t data[CHUNK];
    int count;
    d->fault = 0;
    count = d->link.read(d->context, data, sizeof data, timeout);
    if (count < 0) return STILLNET_GONE;
    if (count > 0) d->heard = clock_now(d);
    for (int k = 0; k < count && k < (int)sizeof data; k++) take_byte(d, data[k]);
    if (d->other_version)
        return fail(d, STILLNET_LINK_VERSION, d->other_version & 15u, STILLNET_LINK_VERSION_NUMBER);
    return (int)d->fault;
}

/* Waits for bytes, and deals with them or with their absence. */
static int link_pump(stillnet *d)
{
    const uint32_t damaged = d->damaged;
    uint32_t now = clock_now(d), oldest;
    int error;
    if (now - d->waited > d->wait) /* the program did something else meanwhile */
        d->heard = d->framed = d->progress = now;
    now -= d->heard;
    error = take_bytes(d, now < d->wait ? d->wait - now : 0);
    if (error) return error;
    now = d->waited = clock_now(d);
    if (d->answered == d->count) return 0;
    oldest = job_at(d, d->answered)->sequence;
    if (d->damaged != damaged && d->resumed_from != oldest) error = ask(d, oldest);
    if (error) return error;
    if (now - d->progress > d->timeout) {
        d->detail[0] = job_at(d, d->answered)->kind;
        d->detail[1] = d->timeout;
        return d->alive ? STILLNET_STUCK : STILLNET_LOST;
    }
    /* Silence; or noise that does not end. */
    if (now - d->heard >= d->wait || now - d->framed >= 8 * d->retry) {
        d->heard = d->framed = now;
        d->wait = smaller(2 * d->wait, 4 * d->retry);
        d->repeated_from = NONE;
        error = ask(d, oldest);
    }
    return error;
}

/* What the outcome of a job that is answered means. */
static int judge(stillnet *d, const stillnet_job *j)
{
    if (j->outcome == STILLNET_OUTCOME_OK) return STILLNET_OK;
    /* Without a base are the changes that follow a vector which the board refused. */
    if (j->outcome == STILLNET_OUTCOME_NOT_LOADED || j->outcome == STILLNET_OUTCOME_NO_BASE)
        return STILLNET_NOT_LOADED;
    if (j->outcome == OTHER_LENGTH) return fail(d, STILLNET_ANSWER, j->value, j->sink_bytes);
    return fail(d, STILLNET_COMMAND, j->kind, j->outcome);
}

static int take_identity(stillnet *d)
{
    const uint16_t *w = d->identity;
    d->window = w[1] >> 8;
    d->clock_hz = pair(w + 4);
    d->receive_bytes = pair(w + 6);
    d->reply_bytes = pair(w + 8);
    if (w[0] != STILLNET_IMAGE_VERSION_NUMBER)
        return fail(d, STILLNET_BOARD_VERSION, w[0], STILLNET_IMAGE_VERSION_NUMBER);
    if (pair(w + 2) != d->engine.fingerprint)
        return fail(d, STILLNET_BOARD_ENGINE, pair(w + 2), d->engine.fingerprint);
    if (d->changes < d->inputs || d->changes < d->outputs) d->changing = 0;
    return STILLNET_OK;
}

static int greet(stillnet *d)
{
    const uint32_t begin = clock_now(d), limit = d->timeout, retry = d->retry;
    uint32_t asked, now;
    stillnet_job *j = &d->jobs[0];
    int error = 0, reset = 0;
    uint8_t junk[CHUNK];
    int count;
    lose(d, 0);
    /* What is left of an earlier session must not be taken for an answer. */
    do {
        count = d->link.read(d->context, junk, sizeof junk, 0);
        if (count < 0) return STILLNET_GONE;
    } while (count > 0 && clock_now(d) - begin < retry);
    d->head = d->begun = d->escaped = d->bad = d->alive = d->other_version = 0;
    d->asked_open = 0;
    d->receive_used = STILLNET_LINK_HEADER_BYTES;
    d->reply_used = STILLNET_LINK_HEADER_BYTES + 1 + 2 * STILLNET_IDENTITY_WORDS;
    *j = no_job;
    j->kind = STILLNET_COMMAND_HELLO;
    j->sequence = (d->next * 5 + begin + (begin >> 8) + 1) & 0xffu;
    j->sink = d->identity;
    j->sink_bytes = 2 * STILLNET_IDENTITY_WORDS;
    d->count = d->greeting = 1;
    while (!error && !d->answered && clock_now(d) - begin < limit) {
        error = send_job(d, j);
        asked = now = clock_now(d);
        while (!error && !d->answered && now - asked < retry) {
            error = take_bytes(d, retry - (now - asked));
            now = clock_now(d);
        }
        if (error || d->answered) break;
        /* Something is there, but does not come to the greeting: the engine must be stuck. */
        if (d->alive && now - begin > limit / 2 && !reset) {
            reset = 1;
            error = send_control(d, STILLNET_COMMAND_RESET, j->sequence, NONE);
        } else {
            error = send_control(d, STILLNET_COMMAND_RESUME, j->sequence, 0);
        }
    }
    if (!error && !d->answered) error = fail(d, STILLNET_NO_ANSWER, limit, 0);
    if (!error) error = judge(d, j);
    if (!error) error = take_identity(d);
    d->greeting = d->count = d->answered = 0;
    d->next = j->sequence + 1;
    if (error) return error;
    begin_waiting(d);
    d->connected = 1;
    return STILLNET_OK;
}

/* -- the streams of a bus -------------------------------------------------------------------- */

/* Gives elements to the core; how many it has taken. */
static size_t bus_put(stillnet *d)
{
    stillnet_job *j;
    size_t size, left, n;
    int16_t one;
    if (d->given == d->count) return 0;
    j = job_at(d, d->given);
    size = j->source_bytes / 2;
    left = size - d->moved_in;
    one = (int16_t)(uint16_t)j->value;
    if (j->source)
        n = d->bus.put(d->context, (const int16_t *)j->source + d->moved_in, left);
    else
        n = d->bus.put(d->context, &one, 1);
    if (n > left) n = left;
    d->moved_in += n;
    if (d->moved_in == size) {
        d->moved_in = 0;
        d->given++;
        if (!j->sink_bytes) d->answered++;
    }
    return n;
}

static int bus_pump(stillnet *d)
{
    size_t moved = bus_put(d);
    if (d->answered < d->count && job_at(d, d->answered)->sink_bytes) {
        stillnet_job *j = job_at(d, d->answered);
        const size_t left = j->sink_bytes / 2 - d->moved_out;
        size_t n = d->bus.get(d->context, (int16_t *)j->sink + d->moved_out, left);
        if (n > left) n = left;
        moved += n;
        d->moved_out += n;
        if (n == left) {
            d->moved_out = 0;
            d->answered++;
        }
    }
    if (moved) {
        d->progress = clock_now(d);
    } else if (clock_now(d) - d->progress > d->timeout) {
        return fail(d, STILLNET_STUCK, STILLNET_COMMAND_STEP, d->timeout);
    }
    return STILLNET_OK;
}

/* The register accesses of a job, at once. */
static void bus_access(stillnet *d, const stillnet_job *j)
{
    void *context = d->context;
    const uint32_t offset = 4u * (j->second & (HALF - 1u));
    const uint16_t *elements = j->bytes ? NULL : (const uint16_t *)j->source;
    const uint8_t *bytes = j->bytes ? (const uint8_t *)j->source : NULL;
    const uint32_t half = j->second & HALF;
    if (j->first != NO_REGISTER) d->bus.write32(context, 4u * j->first, j->first_value);
    for (uint32_t k = 0; k < j->count; k++) {
        uint32_t value = j->value;
        if (!(j->second & WRITE)) {
            value = d->bus.read32(context, offset);
            j->sink[half ? k : 2 * k] = (uint16_t)value;
            if (!half) j->sink[2 * k + 1] = (uint16_t)(value >> 16);
            continue;
        }
        if (bytes) value = half ? bytes[2 * k] | (uint32_t)bytes[2 * k + 1] << 8 : get32(bytes + 4 * k);
        if (elements) value = half ? elements[k] : pair(elements + 2 * k);
        d->bus.write32(context, offset, value);
    }
}

/* -- jobs ------------------------------------------------------------------------------------ */

static int pump(stillnet *d)
{
    const int error = IS_LINK(d) ? link_pump(d) : bus_pump(d);
    return error ? lose(d, error) : 0;
}

static int has_room(const stillnet *d, const stillnet_job *j)
{
    if (d->count == STILLNET_WINDOW) return 0;
    if (!IS_LINK(d)) return 1;
    return d->count - d->answered < d->window &&
           d->receive_used + command_bytes(j) <= d->receive_bytes &&
           d->reply_used + reply_bytes(j) <= d->reply_bytes;
}

static int give(stillnet *d, const stillnet_job *given)
{
    stillnet_job *j = job_at(d, d->count);
    *j = *given;
    j->outcome = 0;
    if (d->count == d->answered) {
        if (IS_LINK(d)) begin_waiting(d);
        else d->progress = clock_now(d);
    }
    d->count++;
    if (!IS_LINK(d)) return STILLNET_OK;
    j->sequence = d->next++ & 0xffu;
    j->place = d->place++;
    d->receive_used += command_bytes(j);
    d->reply_used += reply_bytes(j);
    return send_job(d, j) ? lose(d, STILLNET_GONE) : STILLNET_OK;
}

/* Waits for the answer of the oldest job and forgets the job. */
static int finish(stillnet *d)
{
    const stillnet_job *j = job_at(d, 0);
    while (!d->answered) {
        const int error = pump(d);
        if (error) return error;
    }
    d->head = (d->head + 1) % STILLNET_WINDOW;
    d->count--;
    d->answered--;
    if (d->given) d->given--;
    if (j->outcome == OTHER_LENGTH) {
        if (is_step(j)) d->unknown = 1;
        lose(d, 0);
    }
    return judge(d, j);
}

static int finish_all(stillnet *d)
{
    int first = 0;
    while (d->count) {
        const int error = finish(d);
        if (error && !first) first = error;
    }
    return first;
}

/* A job that is done before those that follow need it, or at once on a bus. */
static int begin(stillnet *d, const stillnet_job *j)
{
    if (!IS_LINK(d) && j->kind == STILLNET_COMMAND_ACCESS) {
        bus_access(d, j);
        return STILLNET_OK;
    }
    while (!has_room(d, j)) {
        const int error = d->count ? finish(d)
                                   : fail(d, STILLNET_VECTOR_SIZE, command_bytes(j), j->sink_bytes);
        if (error) return error;
    }
    return give(d, j);
}

static int perform(stillnet *d, const stillnet_job *j)
{
    const int error = begin(d, j);
    return error ? error : finish_all(d);
}

/* An ACCESS: writes `value` to register `first`, then reads or writes register `second`. */
static stillnet_job access(uint32_t first, uint32_t first_value, uint32_t second, uint32_t count)
{
    stillnet_job j = no_job;
    const uint32_t size = count * (second & HALF ? 2u : 4u);
    j.kind = STILLNET_COMMAND_ACCESS;
    j.first = first;
    j.first_value = first_value;
    j.second = second;
    j.count = count;
    if (second & WRITE) j.source_bytes = size;
    else j.sink_bytes = size;
    return j;
}

static int write_two(stillnet *d, uint32_t first, uint32_t first_value, uint32_t second,
                     uint32_t value)
{
    stillnet_job j = access(first, first_value, second | WRITE, 1);
    j.value = value;
    return perform(d, &j);
}

static int write_control(stillnet *d, uint32_t value)
{
    return write_two(d, NO_REGISTER, 0, STILLNET_REGISTER_CONTROL, value);
}

static int read_two(stillnet *d, uint32_t first, uint32_t first_value, uint32_t second,
                    uint32_t *value)
{
    stillnet_job j = access(first, first_value, second, 1);
    uint16_t words[2] = {0, 0};
    int error;
    j.sink = words;
    error = perform(d, &j);
    *value = pair(words);
    return error;
}

static int read_one(stillnet *d, uint32_t index, uint32_t *value)
{
    return read_two(d, NO_REGISTER, 0, index, value);
}

/* Makes the session usable: no answer waits; after a loss it begins anew. `fresh`: what follows
   does not depend on the place in the sequence. */
static int ready(stillnet *d, int fresh)
{
    int error = 0;
    if (d->connected) finish_all(d);
    if (!d->connected) {
        if (!IS_LINK(d)) return fail(d, STILLNET_STUCK, STILLNET_COMMAND_STEP, d->timeout);
        error = greet(d);
    }
    if (!error && d->unknown && !fresh) error = STILLNET_UNKNOWN;
    return error;
}

static int wait_for(stillnet *d, uint32_t wanted, uint32_t *status)
{
    const uint32_t begin = clock_now(d);
    for (;;) {
        const int error = read_one(d, STILLNET_REGISTER_STATUS, status);
        if (error) return error;
        if ((*status & wanted) == wanted || *status >> 8 & 0xffu) return STILLNET_OK;
        if (clock_now(d) - begin > d->timeout)
            return fail(d, STILLNET_STUCK, STILLNET_COMMAND_ACCESS, d->timeout);
    }
}

static int wait_idle(stillnet *d)
{
    uint32_t status = 0;
    int error = read_one(d, STILLNET_REGISTER_STATUS, &status);
    if (!error && !(status & STILLNET_STATUS_LOADED)) error = STILLNET_NOT_LOADED;
    if (!error) error = wait_for(d, STILLNET_STATUS_IDLE, &status);
    if (!error && status & STILLNET_STATUS_MEMORY_ERROR) error = STILLNET_MEMORY;
    return error;
}

/* -- beginning ------------------------------------------------------------------------------- */

/* Byte by byte: a constant of this size would take as much of the program. */
static void set_zero(stillnet *d)
{
    unsigned char *p = (unsigned char *)d;
    for (size_t k = 0; k < sizeof *d; k++) p[k] = 0;
}

#if STILLNET_LINK
int stillnet_open_link(stillnet *d, const stillnet_engine *engine, const stillnet_link *link)
{
    set_zero(d);
    d->engine = *engine;
    d->link = *link;
    d->is_link = 1;
    d->now = link->now;
    d->context = link->context;
    d->retry = link->retry ? link->retry : RETRY;
    d->timeout = link->timeout ? link->timeout : TIMEOUT;
    return greet(d);
}
#endif

#if STILLNET_BUS
int stillnet_open_bus(stillnet *d, const stillnet_engine *engine, const stillnet_bus *bus)
{
    uint32_t id, version, fingerprint;
    set_zero(d);
    d->engine = *engine;
    d->bus = *bus;
    d->now = bus->now;
    d->context = bus->context;
    d->timeout = bus->timeout ? bus->timeout : TIMEOUT;
    read_one(d, STILLNET_REGISTER_ID, &id);
    read_one(d, STILLNET_REGISTER_VERSION, &version);
    read_one(d, STILLNET_REGISTER_FINGERPRINT, &fingerprint);
    if (id != STILLNET_IMAGE_MAGIC) return fail(d, STILLNET_NOT_AN_ENGINE, id, STILLNET_IMAGE_MAGIC);
    if (version != STILLNET_IMAGE_VERSION_NUMBER)
        return fail(d, STILLNET_BOARD_VERSION, version, STILLNET_IMAGE_VERSION_NUMBER);
    if (fingerprint != engine->fingerprint)
        return fail(d, STILLNET_BOARD_ENGINE, fingerprint, engine->fingerprint);
    d->connected = 1;
    return STILLNET_OK;
}
#endif

int stillnet_reset(stillnet *d)
{
    int error;
    if (!IS_LINK(d)) return STILLNET_NO_RESET;
    d->image = NULL;
    forget(d);
    error = send_control(d, STILLNET_COMMAND_RESET, 0, NONE);
    if (error) return lose(d, error);
    d->connected = 0;
    error = greet(d);
    if (!error) d->unknown = 0;
    return error;
}

/* -- an image -------------------------------------------------------------------------------- */

/* What an image says of itself, without an engine. */
static int check_head(const uint8_t *image, size_t size)
{
    uint32_t layers;
    if (size < STILLNET_SLOT_BYTES * STILLNET_HEADER_SLOTS ||
        field(image, 0, STILLNET_HEADER_MAGIC) != STILLNET_IMAGE_MAGIC)
        return STILLNET_NOT_AN_IMAGE;
    if (field(image, 0, STILLNET_HEADER_VERSION) != STILLNET_IMAGE_VERSION_NUMBER)
        return STILLNET_IMAGE_VERSION;
    layers = field(image, 0, STILLNET_HEADER_LAYERS);
    if (!layers) return STILLNET_NOT_AN_IMAGE;
    return size / STILLNET_SLOT_BYTES < layer_group(layers) ? STILLNET_IMAGE_CUT : STILLNET_OK;
}

int stillnet_verify(const uint8_t *image, size_t size)
{
    const size_t at = STILLNET_SLOT_BYTES * STILLNET_CRC_SLOT;
    const int error = check_head(image, size);
    uint32_t crc = 0xffffffffu;
    size_t notes, end;
    if (error) return error;
    notes = field(image, 0, STILLNET_HEADER_NOTES_BYTES);
    if (notes > size - STILLNET_SLOT_BYTES * STILLNET_HEADER_SLOTS) return STILLNET_IMAGE_CUT;
    end = size - notes;
    for (size_t k = 0; k < end; k++) crc = crc_byte(crc, k - at < 4 ? 0 : image[k]);
    return ~crc == field(image, 0, STILLNET_HEADER_CRC) ? STILLNET_OK : STILLNET_IMAGE_CRC;
}

/* Whether an image is for this engine and its memory; learns its sizes. */
static int check_image(stillnet *d, const uint8_t *image, size_t size, uint32_t base)
{
    const uint32_t word = d->engine.word_bytes, room = d->engine.memory_words;
    uint32_t words, inputs, outputs, found;
    const int error = check_head(image, size);
    if (error == STILLNET_IMAGE_VERSION)
        fail(d, 0, field(image, 0, STILLNET_HEADER_VERSION), STILLNET_IMAGE_VERSION_NUMBER);
    else if (error)
        fail(d, 0, (uint32_t)size, layer_group(1) * STILLNET_SLOT_BYTES);
    if (error) return error;
    found = field(image, 0, STILLNET_HEADER_FINGERPRINT);
    if (found != d->engine.fingerprint)
        return fail(d, STILLNET_IMAGE_ENGINE, found, d->engine.fingerprint);
    words = field(image, 0, STILLNET_HEADER_WORDS);
    if (size / word < words)
        return fail(d, STILLNET_IMAGE_CUT, (uint32_t)size, words * word);
    if (base % (STILLNET_SLOT_BYTES > word ? STILLNET_SLOT_BYTES / word : 1u))
        return fail(d, STILLNET_IMAGE_BASE, base, STILLNET_SLOT_BYTES / word);
    if (words > room || base > room - words) return fail(d, STILLNET_IMAGE_SIZE, words, room);
    inputs = field(image, 0, STILLNET_HEADER_INPUTS);
    outputs = field(image, layer_group(field(image, 0, STILLNET_HEADER_LAYERS) - 1),
                    STILLNET_LAYER_UNITS);
    if (IS_LINK(d) && (STILLNET_LINK_HEADER_BYTES + 2 * inputs > d->receive_bytes ||
                       STILLNET_LINK_HEADER_BYTES + 2 * outputs + 1 > d->reply_bytes))
        return fail(d, STILLNET_VECTOR_SIZE, 2 * inputs, 2 * outputs);
    d->inputs = inputs;
    d->outputs = outputs;
    return STILLNET_OK;
}

/* Bytes of an image in one command: two commands must fit the board's buffer, so that one travels
   while the other is carried out. */
static uint32_t block_bytes(const stillnet *d)
{
    const uint32_t word = d->engine.word_bytes;
    const uint32_t most = word == 2 ? 2 * RUN : BLOCK_BYTES;
    uint32_t half = d->receive_bytes / 2;
    if (!IS_LINK(d)) return most;
    half = half > 10 ? (half - 10) / 64 * 64 : 0;
    half = smaller(half, most);
    return half > word ? half : word;
}

static int start(stillnet *d, const uint8_t *image, uint32_t base)
{
    uint32_t status = 0;
    int error = write_two(d, STILLNET_REGISTER_IMAGE_BASE, base, STILLNET_REGISTER_CONTROL,
                          STILLNET_CONTROL_LOAD | STILLNET_CONTROL_VERIFY);
    if (!error) error = wait_for(d, STILLNET_STATUS_LOADED | STILLNET_STATUS_IDLE, &status);
    if (error) return error;
    if (!(status & STILLNET_STATUS_LOADED))
        return fail(d, STILLNET_REFUSED, status >> 8 & 0xffu, base);
    begin_vectors(d, image, 1);
    return STILLNET_OK;
}

int stillnet_load(stillnet *d, const uint8_t *image, size_t size, uint32_t base,
                  stillnet_progress progress, void *context)
{
    int error = ready(d, 1);
    uint32_t block, total, word = d->engine.word_bytes;
    if (!error) error = check_image(d, image, size, base);
    if (error) return error;
    d->image = NULL;
    block = block_bytes(d);
    total = field(image, 0, STILLNET_HEADER_WORDS) * word;
    for (uint32_t at = 0; at < total && !error; at += block) {
        const uint32_t part = smaller(block, total - at), half = word == 2 ? HALF : 0u;
        stillnet_job j = access(STILLNET_REGISTER_MEMORY_ADDRESS, base + at / word,
                                STILLNET_REGISTER_MEMORY_DATA | WRITE | half, part / (half ? 2 : 4));
        j.source = image + at;
        j.bytes = 1;
        if (progress) progress(context, at, total);
        error = begin(d, &j);
    }
    if (!error) error = finish_all(d);
    if (error) return error;
    if (progress) progress(context, total, total);
    return start(d, image, base);
}

int stillnet_start(stillnet *d, const uint8_t *image, size_t size, uint32_t base)
{
    int error = ready(d, 1);
    if (!error) error = check_image(d, image, size, base);
    if (error) return error;
    d->image = NULL;
    return start(d, image, base);
}

int stillnet_attach(stillnet *d, const uint8_t *image, size_t size)
{
    uint32_t status = 0;
    int error = ready(d, 1);
    if (!error) error = check_image(d, image, size, 0);
    if (!error) error = read_one(d, STILLNET_REGISTER_STATUS, &status);
    if (error) return error;
    if (!(status & STILLNET_STATUS_LOADED)) return STILLNET_NOT_LOADED;
    begin_vectors(d, image, 0); /* another program may have set thresholds */
    return STILLNET_OK;
}

/* -- steps ----------------------------------------------------------------------------------- */

int stillnet_submit(stillnet *d, const int16_t *x, int16_t *y)
{
    stillnet_job j = no_job;
    if (!d->image) return STILLNET_NOT_LOADED;
    if (!d->connected || d->unknown) {
        const int error = ready(d, 0);
        if (error) return error;
    }
    j.kind = STILLNET_COMMAND_STEP;
    j.source = x;
    j.source_bytes = 2 * d->inputs;
    j.sink = (uint16_t *)y;
    j.sink_bytes = 2 * d->outputs;
#if CHANGES
    if (d->changing) j.sink_bytes = most_bytes(d->outputs);
#endif
    if (!has_room(d, &j)) return fail(d, STILLNET_FULL, d->count, 0);
#if CHANGES
    if (d->changing) choose_form(d, &j);
#endif
    if (IS_LINK(d)) return give(d, &j);
    give(d, &j);
    while (bus_put(d)) d->progress = clock_now(d);
    return STILLNET_OK;
}

int stillnet_finish(stillnet *d)
{
    if (!d->count) return d->unknown ? STILLNET_UNKNOWN : STILLNET_NOTHING;
    return finish(d);
}

int stillnet_run(stillnet *d, const int16_t *x, int16_t *y, size_t steps)
{
    int error = ready(d, 0);
    size_t sent = 0, done = 0;
    while (!error && done < steps) {
        error = sent < steps ? stillnet_submit(d, x + sent * d->inputs, y + sent * d->outputs)
                             : STILLNET_FULL;
        if (!error) {
            sent++;
        } else if (error == STILLNET_FULL) {
            error = stillnet_finish(d);
            done++;
        }
    }
    if (error && d->connected) finish_all(d);
    return error;
}

int stillnet_step(stillnet *d, const int16_t *x, int16_t *y)
{
    return stillnet_run(d, x, y, 1);
}

/* -- state ----------------------------------------------------------------------------------- */

static int clear(stillnet *d)
{
    uint32_t status = 0;
    int error = ready(d, 1);
    if (!error && !d->image) error = STILLNET_NOT_LOADED;
    if (!error) error = read_one(d, STILLNET_REGISTER_STATUS, &status);
    if (!error && !(status & STILLNET_STATUS_LOADED)) error = STILLNET_NOT_LOADED;
    if (!error) error = write_control(d, STILLNET_CONTROL_CLEAR);
    if (!error) error = wait_for(d, STILLNET_STATUS_LOADED | STILLNET_STATUS_IDLE, &status);
    return error;
}

int stillnet_clear(stillnet *d)
{
    const int error = clear(d);
    if (error) return error;
    d->unknown = 0;
    begin_sequence(d);
    return error;
}

static uint32_t layer_count(const stillnet *d)
{
    return field(d->image, 0, STILLNET_HEADER_LAYERS);
}

static uint32_t layer_units(const stillnet *d, uint32_t layer)
{
    return field(d->image, layer_group(layer), STILLNET_LAYER_UNITS);
}

/* State variables of a layer, one bit each. */
static uint32_t layer_states(const stillnet *d, uint32_t layer)
{
    return d->engine.cell_states[field(d->image, layer_group(layer), STILLNET_LAYER_CELL) %
                                 sizeof d->engine.cell_states];
}

static int takes_tokens(const stillnet *d)
{
    return STILLNET_ONE_HOT_MODES >> field(d->image, 0, STILLNET_HEADER_INPUT_MODE) & 1;
}

/* The state in an array: reference of the input; references of the layers; the second ones, where
   the engine has them; then each state variable of the layers that have it, those of 32 bits in two
   elements; then, where the engine has budgets, the window of the input and of each layer. */
static size_t state_references(const stillnet *d)
{
    size_t units = 0;
    for (uint32_t i = 0; i < layer_count(d); i++) units += layer_units(d, i);
    return units;
}

size_t stillnet_state_size(const stillnet *d)
{
    size_t size;
    if (!d->image) return 0;
    size = d->inputs + state_references(d) * (d->engine.second_threshold ? 2 : 1);
    for (uint32_t i = 0; i < layer_count(d); i++)
        for (uint32_t s = 0; s < 8; s++)
            if (layer_states(d, i) >> s & 1)
                size += layer_units(d, i) * (d->engine.wide_states >> s & 1 ? 2u : 1u);
    return size + (d->engine.budgets ? layer_count(d) + 1 : 0);
}

/* Reads elements of a region into `*sink`, or writes those of `*source`; the array moves on. */
static int move_elements(stillnet *d, uint32_t region, uint32_t index, uint32_t count, int wide,
                         uint16_t **sink, const uint16_t **source)
{
    const uint32_t flags = (wide ? 0u : HALF) | (source ? WRITE : 0u), size = wide ? 4 : 2;
    uint32_t most = RUN;
    int error = 0;
    if (IS_LINK(d)) {
        const uint32_t room = smaller(d->receive_bytes, d->reply_bytes);
        most = room > 16 ? smaller(most, (room - 16) / 4) : 1;
    }
    for (uint32_t at = 0; at < count && !error; at += most) {
        const uint32_t part = smaller(most, count - at);
        stillnet_job j = access(STILLNET_REGISTER_STATE_SELECT, region << 28 | (index + at),
                                STILLNET_REGISTER_STATE_DATA | flags, part);
        if (source) j.source = *source, *source += part * (size / 2);
        else j.sink = *sink, *sink += part * (size / 2);
        error = begin(d, &j);
    }
    return error ? error : finish_all(d);
}

/* One region of every layer. */
static int move_layers(stillnet *d, uint32_t region, uint32_t state, uint16_t **sink,
                       const uint16_t **source)
{
    for (uint32_t i = 0; i < layer_count(d); i++) {
        const uint32_t units = layer_units(d, i);
        const int wide = region == STILLNET_REGION_STATE && d->engine.wide_states >> state & 1;
        const uint32_t base = field(d->image, layer_group(i), STILLNET_LAYER_UNIT_BASE);
        int error;
        if (region == STILLNET_REGION_STATE && !(layer_states(d, i) >> state & 1)) continue;
        error = move_elements(d, region + state, base * d->engine.cell_width, units, wide, sink,
                              source);
        if (error) return error;
    }
    return STILLNET_OK;
}

/* What follows the references in a saved state: states of the cells, then the budgets' windows. */
static int move_states(stillnet *d, uint16_t **sink, const uint16_t **source)
{
    int error = STILLNET_OK;
    for (uint32_t s = 0; s < 8 && !error; s++)
        error = move_layers(d, STILLNET_REGION_STATE, s, sink, source);
    if (!error && d->engine.budgets)
        error = move_elements(d, STILLNET_REGION_BUDGET_WINDOW, 0, layer_count(d) + 1, 0, sink,
                              source);
    return error;
}

int stillnet_get_state(stillnet *d, int16_t *state)
{
    uint16_t *at = (uint16_t *)state;
    int error = ready(d, 0);
    if (!error && !d->image) error = STILLNET_NOT_LOADED;
    if (!error) error = wait_idle(d);
    if (!error) error = move_elements(d, STILLNET_REGION_INPUT, 0, d->inputs, 0, &at, NULL);
    if (error) return error;
    if (takes_tokens(d)) state[0] = (int16_t)(state[0] - 1); /* the engine keeps the token plus one */
    error = move_layers(d, STILLNET_REGION_REFERENCE, 0, &at, NULL);
    if (!error && d->engine.second_threshold)
        error = move_layers(d, STILLNET_REGION_REFERENCE_SECOND, 0, &at, NULL);
    return error ? error : move_states(d, &at, NULL);
}

/* Elements for the input stream; NULL: `value`, then zeros. */
static int feed(stillnet *d, const uint16_t *source, size_t count, uint16_t value)
{
    const uint32_t room = smaller(d->receive_bytes, d->reply_bytes);
    const uint32_t most = !IS_LINK(d) ? 0x4000u : room > 34 ? smaller(512, (room - 32) / 2) : 1;
    int error = 0;
    for (size_t at = 0; at < count && !error; at += most) {
        const size_t part = count - at < most ? count - at : most;
        stillnet_job j = no_job;
        j.kind = STILLNET_COMMAND_FEED;
        j.source = source ? source + at : NULL;
        j.value = value;
        j.source_bytes = (uint32_t)(2 * part);
        error = begin(d, &j);
    }
    return error ? error : finish_all(d);
}

/* Has the engine take references from `input` (NULL: nothing) and `vectors`. */
static int restore(stillnet *d, uint32_t flags, const uint16_t *input, const uint16_t *vectors)
{
    int error = write_control(d, STILLNET_CONTROL_RESTORE | STILLNET_CONTROL_RESTORE_EXACT | flags);
    if (!error) error = feed(d, input, d->inputs, takes_tokens(d) ? 0xffffu : 0);
    if (!error) error = feed(d, vectors, state_references(d), 0);
    return error ? error : wait_idle(d);
}

int stillnet_set_state(stillnet *d, const int16_t *state)
{
    const uint16_t *input = (const uint16_t *)state, *first, *at;
    int error = clear(d);
    if (error) return error;
    d->unknown = 1; /* until all of it is there */
    forget(d);
    first = input + d->inputs;
    at = first + state_references(d);
    if (d->engine.second_threshold) {
        error = restore(d, STILLNET_CONTROL_RESTORE_FIRST, input, first);
        if (!error) error = restore(d, STILLNET_CONTROL_RESTORE_SECOND, NULL, at);
        at += state_references(d);
    } else {
        error = restore(d, 0, input, first);
    }
    if (!error) error = move_states(d, NULL, &at);
    if (error) return error;
    d->unknown = 0;
    begin_sequence(d);
#if CHANGES
    if (d->changing)
        for (uint32_t k = 0; k < d->inputs; k++) d->link.latest[k] = state[k];
#endif
    return error;
}

/* -- thresholds, counters, registers --------------------------------------------------------- */

static int check_source(stillnet *d, unsigned source)
{
    const uint32_t layers = d->image ? layer_count(d) : 0;
    const uint32_t vector = source % STILLNET_SECOND;
    const int second = source >= STILLNET_SECOND;
    if (source >= 2 * STILLNET_SECOND || vector > layers ||
        (second && (!vector || !d->engine.second_threshold)))
        return fail(d, STILLNET_ARGUMENT, source, layers);
    return STILLNET_OK;
}

int stillnet_set_threshold(stillnet *d, unsigned source, uint32_t value)
{
    int error = check_source(d, source);
    if (!error && value >> STILLNET_EVENT_BITS)
        error = fail(d, STILLNET_ARGUMENT, value, (1u << STILLNET_EVENT_BITS) - 1);
    if (!error) error = ready(d, 0);
    if (error) return error;
    error = write_two(d, STILLNET_REGISTER_THRESHOLD_SELECT, source, STILLNET_REGISTER_THRESHOLD,
                      value);
    if (!source && error) forget(d), d->exact = 0; /* the board may have it or not */
    if (!source && !error) d->threshold = value;
    return error;
}

int stillnet_get_counters(stillnet *d, uint32_t counters[STILLNET_COUNTERS])
{
    static const uint8_t registers[STILLNET_COUNTERS] = STILLNET_COUNTER_REGISTERS;
    int error = ready(d, 0);
    if (!error && d->image) error = wait_idle(d);
    for (uint32_t k = 0; k < STILLNET_COUNTERS && !error; k++)
        error = read_one(d, registers[k], &counters[k]);
    return error;
}

int stillnet_get_events(stillnet *d, unsigned source, uint32_t *events)
{
    int error = check_source(d, source);
    if (!error) error = ready(d, 0);
    if (!error && d->image) error = wait_idle(d);
    if (error) return error;
    return read_two(d, STILLNET_REGISTER_EVENTS_SELECT, source, STILLNET_REGISTER_EVENTS, events);
}

int stillnet_clear_counters(stillnet *d)
{
    const int error = ready(d, 0);
    return error ? error : write_control(d, STILLNET_CONTROL_CLEAR_COUNTERS);
}

static int check_register(stillnet *d, unsigned index)
{
    int error;
    if (index >> STILLNET_ADDRESS_BITS)
        return fail(d, STILLNET_ARGUMENT, index, (1u << STILLNET_ADDRESS_BITS) - 1);
    error = ready(d, 1);
    return error;
}

int stillnet_read(stillnet *d, unsigned index, uint32_t *value)
{
    const int error = check_register(d, index);
    return error ? error : read_one(d, index, value);
}

int stillnet_write(stillnet *d, unsigned index, uint32_t value)
{
    const int error = check_register(d, index);
    if (error) return error;
    forget(d), d->exact = 0; /* it may be a threshold, or a budget */
    return write_two(d, NO_REGISTER, 0, index, value);
}

/* -- sentences ------------------------------------------------------------------------------- */

#if STILLNET_LINK
#define OF_LINK(text) text
#else
#define OF_LINK(text) ""
#endif
#if STILLNET_BUS
#define OF_BUS(text) text
#else
#define OF_BUS(text) ""
#endif

static const char *sentence(const stillnet *d, int error)
{
#if STILLNET_SENTENCES
    static const char *const sentences[STILLNET_ERRORS] = {
        "no error",
        OF_LINK("the link's read or write callback reported an error; check the port and open it "
                "again"),
        OF_LINK("nothing that speaks stillnet's protocol answered in %u ms; check cable, power, "
                "bitstream and baud rate"),
        OF_LINK("the board stopped answering command %u for %u ms; check cable and power, and try "
                "again"),
        "the engine has not finished command %u in %u ms; reset it and load the image again",
        OF_LINK("the board was restarted; load the image again"),
        OF_LINK("the board speaks version %u of the link's protocol, this driver version %u; build "
                "and flash its bitstream again"),
        OF_BUS("what answers says %x, a stillnet engine %x; check address, clock and reset"),
        "the engine takes images of version %u, this driver version %u; generate both with one "
        "version of stillnet",
        "the engine has fingerprint %x, stillnet_engine.h has %x; write the driver for this engine",
        OF_LINK("the board answered with %u bytes where %u were expected; build and flash its "
                "bitstream again"),
        OF_LINK("the board refused command %u with outcome %u; build and flash its bitstream again"),
        "the engine has no verified image; load one",
        "steps were lost, so the place in the sequence is not known; clear, load or set the state",
        "%u bytes that are no stillnet image; give a file that 'stillnet pack' wrote",
        "the image is cut off: %u bytes, %u are needed; copy it again",
        "the checksum of the image is wrong; copy it again",
        "the image has version %u, this driver takes version %u; pack the network again",
        "the image is for fingerprint %x, the engine has %x; pack the network for this engine",
        "base %u is not a multiple of %u words (64 bytes); choose another",
        "the image of %u words does not fit the memory of %u words; use a smaller network or base",
        "the engine refused the image (reason %u); load it again",
        OF_LINK("%u bytes to the board and %u back do not fit its buffers; build its bitstream "
                "with larger ones"),
        "the engine's memory answered with an error; reset the engine and load the image again",
        "%u vectors are on their way; call stillnet_finish() first",
        "no vector is on its way; call stillnet_submit() first",
        "argument %u is not one of 0 to %u that this engine and network have; give one of them",
        OF_BUS("registers cannot reset the engine; pulse the core's rst"),
    };
    static const char *const refusals[] = STILLNET_REFUSALS;
    if (error == STILLNET_REFUSED && d->detail[0] < sizeof refusals / sizeof *refusals)
        return refusals[d->detail[0]];
    if (error >= 0 && error < STILLNET_ERRORS) return sentences[error];
#else
    (void)d;
    (void)error;
#endif
    return "error %u with %u, %u";
}

void stillnet_describe(const stillnet *d, int error, char *text, size_t size)
{
    const char *from = sentence(d, error);
    const uint32_t values[4] = {(uint32_t)error, d->detail[0], d->detail[1], 0};
    uint32_t shown = from[0] != 'e'; /* the general sentence begins with the number */
    size_t used = 0;
    while (*from && used + 1 < size) {
        char digits[10];
        uint32_t value, base, count = 0;
        if (*from != '%') {
            text[used++] = *from++;
            continue;
        }
        base = from[1] == 'x' ? 16 : 10;
        from += 2;
        value = values[shown++ & 3];
        do {
            digits[count++] = "0123456789abcdef"[value % base];
            value /= base;
        } while (value);
        while (count && used + 1 < size) text[used++] = digits[--count];
    }
    if (size) text[used] = 0;
}
