/*
 * A network on a board at a serial port (Linux, macOS): 16-bit vectors from one file, outputs to
 * another one. docs/how-to/c-driver.md explains it.
 *
 *   stillnet c-driver net.img -o driver
 *   cc -std=c99 -Idriver examples/c/serial.c driver/stillnet.c -o step
 *   ./step /dev/ttyUSB0 net.img x.bin y.bin
 *
 * HOST:PORT instead of the serial port is a socket: that of 'stillnet virtual', for instance.
 */

#define _DEFAULT_SOURCE 1
#define _DARWIN_C_SOURCE 1

#include "stillnet.h"
#include "stillnet_engine.h"
#include "stillnet_network.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* -- the byte stream ------------------------------------------------------------------------- */

static int send_bytes(void *context, const uint8_t *data, size_t size)
{
    const int port = *(const int *)context;
    while (size) {
        const ssize_t count = write(port, data, size);
        if (count < 0) return -1;
        data += count;
        size -= (size_t)count;
    }
    return 0;
}

static int receive_bytes(void *context, uint8_t *data, size_t size, uint32_t timeout)
{
    struct pollfd port = {.fd = *(const int *)context, .events = POLLIN};
    const int ready = poll(&port, 1, (int)timeout);
    ssize_t count;
    if (ready <= 0) return ready;
    count = read(port.fd, data, size);
    return count > 0 ? (int)count : -1;
}

static uint32_t milliseconds(void *context)
{
    struct timespec now;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)now.tv_sec * 1000u + (uint32_t)(now.tv_nsec / 1000000);
}

static int open_socket(const char *address)
{
    const char *colon = strrchr(address, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char host[256] = "";
    int port = -1;
    if (!colon || (size_t)(colon - address) >= sizeof host) return -1;
    memcpy(host, address, (size_t)(colon - address));
    if (getaddrinfo(host, colon + 1, &hints, &found)) return -1;
    port = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    if (port >= 0 && connect(port, found->ai_addr, found->ai_addrlen)) port = -1;
    freeaddrinfo(found);
    return port;
}

static int open_port(const char *address)
{
    struct termios mode;
    int port;
    if (address[0] != '/') return open_socket(address);
    port = open(address, O_RDWR | O_NOCTTY);
    if (port < 0 || tcgetattr(port, &mode)) return -1;
    cfmakeraw(&mode);
#ifdef B3000000
    cfsetspeed(&mode, B3000000); /* the rate of the board: stillnet's boards have 3 Mbaud */
#endif
    return tcsetattr(port, TCSANOW, &mode) ? -1 : port;
}

/* -- the program ----------------------------------------------------------------------------- */

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long end;
    if (file && !fseek(file, 0, SEEK_END) && (end = ftell(file)) > 0) {
        *size = (size_t)end;
        rewind(file);
        data = malloc(*size);
        if (data && fread(data, 1, *size, file) != *size) data = NULL;
    }
    if (file) fclose(file);
    if (data) return data;
    fprintf(stderr, "%s cannot be read; check the path\n", path);
    exit(2);
}

static void check(const stillnet *d, int error)
{
    char text[160];
    if (!error) return;
    stillnet_describe(d, error, text, sizeof text);
    fprintf(stderr, "%s\n", text);
    exit(1);
}

int main(int count, char **words)
{
    static const stillnet_engine engine = STILLNET_ENGINE;
    static stillnet d; /* about 1 KB */
    static int16_t latest[STILLNET_NETWORK_INPUTS + STILLNET_NETWORK_OUTPUTS];
    size_t image_size, x_size, steps, outputs;
    uint32_t counters[STILLNET_COUNTERS];
    uint8_t *image;
    int16_t *x, *y;
    FILE *file;
    int port;
    stillnet_link link = {
        .write = send_bytes, .read = receive_bytes, .now = milliseconds, .context = &port,
        .latest = latest, .latest_size = sizeof latest / sizeof *latest,
    };
    if (count != 5) {
        fprintf(stderr, "usage: %s PORT NET.img X.bin Y.bin\n", words[0]);
        return 2;
    }
    image = read_file(words[2], &image_size);
    x = read_file(words[3], &x_size);
    steps = x_size / (2 * STILLNET_NETWORK_INPUTS);
    outputs = steps * STILLNET_NETWORK_OUTPUTS;
    y = malloc(2 * outputs + 1);
    port = open_port(words[1]);
    if (port < 0 || !y) {
        fprintf(stderr, "%s cannot be opened; check the port and its rights\n", words[1]);
        return 2;
    }

    check(&d, stillnet_open_link(&d, &engine, &link));
    check(&d, stillnet_load(&d, image, image_size, 0, NULL, NULL));
    check(&d, stillnet_clear_counters(&d));
    check(&d, stillnet_run(&d, x, y, steps));
    check(&d, stillnet_get_counters(&d, counters));

    file = fopen(words[4], "wb");
    if (!file || fwrite(y, 2, outputs, file) != outputs || fclose(file)) {
        fprintf(stderr, "%s cannot be written; check the path\n", words[4]);
        return 2;
    }
    printf("%lu steps, %lu cycles\n", (unsigned long)counters[STILLNET_COUNTER_STEPS],
           (unsigned long)counters[STILLNET_COUNTER_CYCLES]);
    close(port);
    free(image);
    free(x);
    free(y);
    return 0;
}
