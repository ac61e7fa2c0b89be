/*
 * Drives a stillnet engine: over its host link, or through its registers and streams.
 *
 * C99, no allocation, no global state. All memory is in `stillnet` and in what the caller gives.
 * Functions return 0 (STILLNET_OK) or an error, which stillnet_describe() turns into a sentence.
 * They wait: each ends after the caller's time limit at the latest, whatever the other side does.
 *
 * `stillnet c-driver` writes this file, stillnet.c, and two headers: stillnet_constants.h (registers
 * and protocol) and stillnet_engine.h (the engine that images are packed for).
 */

#ifndef STILLNET_H
#define STILLNET_H

#include <stddef.h>
#include <stdint.h>

#include "stillnet_constants.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is left out of stillnet.c saves program memory: -DSTILLNET_BUS=0 */
#ifndef STILLNET_LINK
#define STILLNET_LINK 1 /* the host link */
#endif
#ifndef STILLNET_BUS
#define STILLNET_BUS 1 /* registers and streams in this system */
#endif
#ifndef STILLNET_CHANGES
#define STILLNET_CHANGES 1 /* vectors on the link as their changes, where the program gives memory */
#endif
#ifndef STILLNET_SENTENCES
#define STILLNET_SENTENCES 1 /* errors as sentences; without: as numbers */
#endif
#ifndef STILLNET_WINDOW
#define STILLNET_WINDOW 8 /* commands or vectors on their way; each takes 56 bytes */
#endif
#define STILLNET_QUESTIONS 16
#define STILLNET_IDENTITY_WORDS 10

/* Errors. The numbers stay the same; new ones come at the end. */
enum {
    STILLNET_OK,
    STILLNET_GONE,          /* a callback of the link reported an error */
    STILLNET_NO_ANSWER,     /* nothing answers on the link */
    STILLNET_LOST,          /* the board stopped answering */
    STILLNET_STUCK,         /* the engine is there but does not finish */
    STILLNET_RESTARTED,     /* the board was restarted in the middle of a session */
    STILLNET_LINK_VERSION,  /* the board speaks another version of the link's protocol */
    STILLNET_NOT_AN_ENGINE, /* what answers is no stillnet engine */
    STILLNET_BOARD_VERSION, /* the engine takes another version of images */
    STILLNET_BOARD_ENGINE,  /* the engine is another one than stillnet_engine.h says */
    STILLNET_ANSWER,        /* an answer has another length than its command asks for */
    STILLNET_COMMAND,       /* the board does not know a command */
    STILLNET_NOT_LOADED,    /* the engine has no network */
    STILLNET_UNKNOWN,       /* steps were lost: the place in the sequence is not known */
    STILLNET_NOT_AN_IMAGE,
    STILLNET_IMAGE_CUT,
    STILLNET_IMAGE_CRC,     /* stillnet_verify() found another checksum */
    STILLNET_IMAGE_VERSION,
    STILLNET_IMAGE_ENGINE,  /* the image was packed for another engine */
    STILLNET_IMAGE_BASE,    /* the address is not a multiple of 64 bytes */
    STILLNET_IMAGE_SIZE,    /* the image does not fit the memory */
    STILLNET_REFUSED,       /* the engine refused the image; the reason is in the sentence */
    STILLNET_VECTOR_SIZE,   /* a vector does not fit the board's buffers */
    STILLNET_MEMORY,        /* the memory of the engine answered with an error */
    STILLNET_FULL,          /* no room for another vector: call stillnet_finish() first */
    STILLNET_NOTHING,       /* stillnet_finish() without a vector on its way */
    STILLNET_ARGUMENT,      /* an argument is out of range */
    STILLNET_NO_RESET,      /* only a link can reset the engine */
    STILLNET_ERRORS
};

/* The engine as it was generated; STILLNET_ENGINE in stillnet_engine.h initializes one. */
typedef struct {
    uint32_t fingerprint;
    uint32_t memory_words;  /* words of memory */
    uint16_t word_bytes;
    uint16_t cell_width;
    uint8_t second_threshold;
    uint8_t budgets;
    uint8_t matrix_slots;   /* of a matrix in the image */
    uint8_t wide_states;    /* state variables of more than 16 bits, one bit each */
    uint8_t cell_states[15];  /* state variables of each cell */
} stillnet_engine;

/* A byte stream to a board: UART, USB, socket. Bytes may get lost or change, but not overtake. */
typedef struct {
    /* Sends all bytes; may return before they are on the wire. Negative: the connection is gone. */
    int (*write)(void *context, const uint8_t *data, size_t size);
    /* Waits until a byte has come, at most `timeout`; returns how many it has stored, or 0.
       Negative: the connection is gone. */
    int (*read)(void *context, uint8_t *data, size_t size, uint32_t timeout);
    /* A clock in milliseconds that does not stop. It may wrap around. */
    uint32_t (*now)(void *context);
    void *context;
    /* Memory for the latest vector in and the latest one out, `latest_size` elements: as many as
       both have, or more. With it only what has changed is sent, which is the same for the engine.
       NULL: vectors go as a whole. */
    int16_t *latest;
    size_t latest_size;
    uint32_t retry;    /* silence after which the board is asked again; 0: 250 */
    uint32_t timeout;  /* time without progress after which a command has failed; 0: 10000 */
} stillnet_link;

/* Registers and streams of a core in the same system: AXI4-Lite and AXI4-Stream. */
typedef struct {
    /* Access to the 32-bit register at a byte offset. */
    void (*write32)(void *context, uint32_t offset, uint32_t value);
    uint32_t (*read32)(void *context, uint32_t offset);
    /* Gives elements to the input stream: as many as it takes now, 0 to `count`. An element counts
       when it is in the core, or in a FIFO that nothing holds up. */
    size_t (*put)(void *context, const int16_t *elements, size_t count);
    /* Takes elements from the output stream: as many as there are now, 0 to `count`. */
    size_t (*get)(void *context, int16_t *elements, size_t count);
    uint32_t (*now)(void *context);  /* as for a link */
    void *context;
    uint32_t timeout;  /* time without progress after which the engine hangs; 0: 10000 */
} stillnet_bus;

typedef struct { /* a list of changes while it comes in; private */
    uint32_t form, bits, count, known, element, width, present, change;
} stillnet_reader;

typedef struct { /* a command without its answer; private */
    uint32_t kind, source_bytes, sink_bytes, value;
    const void *source;
    uint16_t *sink;
    uint32_t bytes, second, first, first_value, count, sequence, place, outcome;
} stillnet_job;

/* One engine. The first fields may be read. The others are private; words come first and what is
   used most before the rest, because a small CPU reaches that with short instructions. */
typedef struct {
    uint32_t inputs, outputs;   /* elements of a vector; 1 input where the network takes tokens */
    uint32_t clock_hz;          /* of a board on a link */
    uint32_t repeated, resumed; /* commands sent again; times that the board was asked */

    uint32_t is_link, connected, unknown, head, count, answered;
    const uint8_t *image;
    uint32_t detail[2], length, crc, begun, matches, escaped, bad, tail, outcome;
    uint32_t heard, framed, progress, wait, place, receive_used, reply_used, given;
    uint32_t receive_bytes, reply_bytes, window, retry, timeout, waited;
    uint32_t greeting, alive, fault, next, question, other_version, damaged;
    uint32_t matched, changes;  /* of the identity: most elements of a vector as changes */
    uint32_t exact, followed;   /* thresholds of the input are known; so is what was passed on */
    uint32_t changing, based, threshold, wanted, wanted_bytes;
    const uint8_t *thresholds;  /* of the elements of the input, in the image */
    stillnet_reader reader;
    uint32_t repeated_from, resumed_from;
    size_t moved_in, moved_out; /* elements of the streams of a bus */
    void *context;
    uint32_t (*now)(void *context);
    stillnet_engine engine;
    stillnet_link link;
    stillnet_bus bus;
    uint8_t frame[4];
    uint16_t identity[STILLNET_IDENTITY_WORDS];
    uint32_t asked_open, asked[STILLNET_QUESTIONS];
    stillnet_job jobs[STILLNET_WINDOW];
} stillnet;

/* Called while an image is written: bytes done, bytes in all. */
typedef void (*stillnet_progress)(void *context, uint32_t done, uint32_t total);

/* -- beginning ------------------------------------------------------------------------------- */

/* Begins a session with the board, whatever was before it; checks versions and fingerprint. Image
   and state of the engine stay as they are. An engine that hangs is reset. */
int stillnet_open_link(stillnet *d, const stillnet_engine *engine, const stillnet_link *link);

/* The same for a core on this system's bus. */
int stillnet_open_bus(stillnet *d, const stillnet_engine *engine, const stillnet_bus *bus);

/* Resets the engine of a board, also one that hangs. A network must be loaded then. */
int stillnet_reset(stillnet *d);

/* -- an image -------------------------------------------------------------------------------- */

/* Whether an image is complete and has the checksum that it says; needs no engine. */
int stillnet_verify(const uint8_t *image, size_t size);

/* Writes an image to the engine's memory from word `base` on, has the engine verify and start it.
   The image must stay where it is: its head is read again by the functions for state, and the
   thresholds of its input by those for steps. `progress` may be NULL. */
int stillnet_load(stillnet *d, const uint8_t *image, size_t size, uint32_t base,
                  stillnet_progress progress, void *context);

/* The same for an image that is in the engine's memory already: from flash, or by DMA. */
int stillnet_start(stillnet *d, const uint8_t *image, size_t size, uint32_t base);

/* Joins an engine that runs this image already, and leaves its state as it is. */
int stillnet_attach(stillnet *d, const uint8_t *image, size_t size);

/* -- steps ----------------------------------------------------------------------------------- */

/* One vector in, one out. */
int stillnet_step(stillnet *d, const int16_t *x, int16_t *y);

/* Many vectors, one after the other in both arrays, as many on their way as there is room for. */
int stillnet_run(stillnet *d, const int16_t *x, int16_t *y, size_t steps);

/* Sends a vector; on a bus as much of it as the core takes at once. `x` must not change, and `y` is not valid, until stillnet_finish() has waited for
   this vector. STILLNET_FULL: nothing was sent, call stillnet_finish() first. */
int stillnet_submit(stillnet *d, const int16_t *x, int16_t *y);

/* Waits for the output of the oldest vector that was submitted. */
int stillnet_finish(stillnet *d);

/* -- state, thresholds, counters ------------------------------------------------------------- */

/* All state zero: the beginning of a sequence. */
int stillnet_clear(stillnet *d);

/* Elements of the state of the network, 0 where none is loaded. */
size_t stillnet_state_size(const stillnet *d);

/* Everything that decides the future of the sequence, and back. */
int stillnet_get_state(stillnet *d, int16_t *state);
int stillnet_set_state(stillnet *d, const int16_t *state);

/* Threshold of a vector in units of its last bit, until the next load. `source`: 0 the input, 1 + l
   layer l; plus STILLNET_SECOND for the second encoder. */
int stillnet_set_threshold(stillnet *d, unsigned source, uint32_t value);

/* The counters in the order of STILLNET_COUNTER_...; the events of a source, as above. */
int stillnet_get_counters(stillnet *d, uint32_t counters[STILLNET_COUNTERS]);
int stillnet_get_events(stillnet *d, unsigned source, uint32_t *events);
int stillnet_clear_counters(stillnet *d);

/* One register, STILLNET_REGISTER_...; for what has no function here. */
int stillnet_read(stillnet *d, unsigned index, uint32_t *value);
int stillnet_write(stillnet *d, unsigned index, uint32_t value);

/* -- errors ---------------------------------------------------------------------------------- */

/* A sentence for an error that was just returned: what, which value, what to do. Always ends with
   a zero byte where `size` is not 0; 160 bytes hold every sentence. */
void stillnet_describe(const stillnet *d, int error, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
