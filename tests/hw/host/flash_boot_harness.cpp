// FlashBoot between a flash and a register file that writes down what it is asked for.

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "Vflash_boot.h"
#include "flash_model.h"
#include "verilated.h"

#define PIN(name) dut->pins___05F##name
#define HOST(name) dut->host___05F##name
#define BUS(name) dut->registers___05F##name

struct Access {
    uint64_t cycle;
    uint32_t write, address, data;
};

struct Bench {
    VerilatedContext context;
    std::unique_ptr<Vflash_boot> dut;
    stillnet::FlashModel flash;
    std::vector<Access> accesses;
    uint64_t cycle = 0, ack_at = 0, host_acks = 0, failures = 0, last_host_ack = 0;
    uint32_t ack_delay = 0, host_read = 0, status_reads = 0, broken = 0;
    uint32_t status = 0, status_after = 0;  // what STATUS reads, from the so-manieth time on
    bool waiting = false, host_waiting = false;
    Access current{};
    uint32_t random = 1;

    Bench(uint64_t bytes, int delay, uint64_t wake, int least_half)
        : flash(bytes, delay, wake, least_half) {
        dut = std::make_unique<Vflash_boot>(&context);
        dut->rst = 1;
        dut->ready = 0;
        dut->stop = 0;
        PIN(cipo) = 1;
        HOST(write_strobe) = HOST(read_strobe) = 0;
        BUS(ack) = 0;
        for (int i = 0; i < 3; i++) edge();
        dut->rst = 0;
    }

    void edge() {
        dut->clk = 0;
        dut->eval();
        dut->clk = 1;
        dut->eval();
    }

    void tick() {
        dut->clk = 0;
        dut->eval();
        const bool cipo = flash.cycle(PIN(cs), PIN(sck), PIN(copi));
        failures += dut->failed;
        const bool strobe = BUS(write_strobe) || BUS(read_strobe);
        const bool stopping = dut->stop;
        if (strobe) {
            broken += waiting || (BUS(write_strobe) && BUS(read_strobe));
            current = {cycle, BUS(write_strobe), BUS(address), BUS(write_data)};
            accesses.push_back(current);
            random = random * 1664525u + 1013904223u;
            ack_at = cycle + 1 + (ack_delay ? (random >> 16) % (ack_delay + 1) : 0);
            waiting = true;
        } else if (waiting) {
            // Address and data stay until the answer.
            broken += current.address != BUS(address) ||
                      (current.write && current.data != BUS(write_data));
        }
        const bool acked = BUS(ack);
        if (acked) waiting = false;
        if (HOST(ack)) {
            broken += !host_waiting;
            host_acks++;
            last_host_ack = cycle;
            host_read = HOST(read_data);
            host_waiting = false;
        }
        if (stopping) waiting = host_waiting = false;  // the engine is reset, and the link

        dut->clk = 1;
        dut->eval();
        cycle++;
        PIN(cipo) = cipo;
        HOST(write_strobe) = HOST(read_strobe) = 0;
        dut->stop = 0;
        BUS(ack) = waiting && ack_at == cycle;
        if (BUS(ack)) {
            uint32_t value = 0x12340000u + current.address;
            if (!current.write && current.address == 3)
                value = ++status_reads > status_after ? status : 0x2;
            BUS(read_data) = value;
        } else {
            BUS(read_data) = 0xFFFFFFFF;  // counts only with the answer
        }
        dut->eval();
    }
};

extern "C" {
Bench* bench_new(uint64_t bytes, int delay, uint64_t wake, int least_half) {
    return new Bench(bytes, delay, wake, least_half);
}
void bench_delete(Bench* b) { delete b; }
void bench_flash(Bench* b, uint64_t at, const uint8_t* data, uint64_t size) {
    std::memcpy(b->flash.memory.data() + at, data, size);
}
void bench_set(Bench* b, uint32_t ready, uint32_t ack_delay, uint32_t status,
               uint32_t status_after) {
    b->dut->ready = ready;
    b->ack_delay = ack_delay;
    b->status = status;
    b->status_after = status_after;
}
// A request of the host in the next cycle.
void bench_host(Bench* b, uint32_t write, uint32_t address, uint32_t data) {
    b->dut->host___05Faddress = address;
    b->dut->host___05Fwrite_data = data;
    b->dut->host___05Fwrite_strobe = write;
    b->dut->host___05Fread_strobe = !write;
    b->host_waiting = true;
}
void bench_stop(Bench* b) { b->dut->stop = 1; }
// Runs until it is not busy and the host has its answer, or for so many cycles.
void bench_run(Bench* b, uint64_t cycles, int until) {
    const uint64_t end = b->cycle + cycles;
    while (b->cycle < end) {
        b->tick();
        if (until && !b->dut->busy && !b->host_waiting && !b->waiting) break;
    }
}
uint64_t bench_value(Bench* b, int which) {
    switch (which) {
        case 0: return b->cycle;
        case 1: return b->dut->busy;
        case 2: return b->dut->found;
        case 3: return b->failures;
        case 4: return b->flash.violations;
        case 5: return b->flash.bytes_read;
        case 6: return b->flash.idle_clocks;
        case 7: return b->broken;
        case 8: return b->host_acks;
        case 9: return b->host_read;
        case 10: return b->accesses.size();
        case 11: return b->dut->pins___05Fcs;
        case 12: return b->last_host_ack;
        default: return ~uint64_t(0);
    }
}
const char* bench_violation(Bench* b) { return b->flash.first_violation.c_str(); }
void bench_accesses(Bench* b, uint64_t* out) {
    for (const Access& a : b->accesses) {
        *out++ = a.cycle;
        *out++ = a.write;
        *out++ = a.address;
        *out++ = a.data;
    }
}
}  // extern "C"
