// A board: the system inside the pins, SDRAM and flash on them, and the far end of the serial port.
// STILLNET_NO_SDRAM and STILLNET_NO_FLASH: the board has none, or makes no use of it.
// STILLNET_MEMORY_CLOCK: the SDRAM has a clock of its own, whose edges wander.
//
// Everything is sampled just before the rising edge and changes just after it. Time passes only in
// board_run(); a host that waits asks for more of it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>

#include "Vsystem.h"
#include "flash_model.h"
#include "sdram_model.h"
#include "uart_model.h"
#include "verilated.h"

// Verilator writes the double underscores of Amaranth's port names in its own way.
#define SDRAM(name) dut->sdram___05F##name
#define FLASH_PIN(name) dut->flash___05F##name
#define STREAM(stream, name) dut->stream##___05F##name

using stillnet::FlashModel;
using stillnet::HostUart;
using stillnet::SdramGeometry;
using stillnet::SdramModel;
using stillnet::SdramPins;
using stillnet::SdramTiming;

namespace {

// Cycles that data of the flash are late: 20 ns of pads and flash at 100 MHz.
constexpr int FLASH_DELAY = 2;
// Least half of a period of its clock, from sim/board/virtual.py.
constexpr int FLASH_HALF = STILLNET_FLASH_HALF;
constexpr uint8_t FLAG = 0x7E;  // begins and ends frames; only used to stop early

}  // namespace

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vsystem> dut;
    SdramModel memory;
    FlashModel flash;
    HostUart uart;
    std::deque<uint8_t> to_board, from_board;
    std::deque<SdramPins> outward;  // registers of the IO cells
    std::deque<uint32_t> inward;
    uint64_t cycle = 0, activity = 0;
    uint64_t period = 1, memory_period = 1;  // of both clocks, in ps
    uint64_t time = 0, memory_time = 0;      // of their next edges
    uint64_t random = 88172645463325252u;
    bool frame_seen = false;

    Board(const SdramGeometry& g, const SdramTiming& t, int pin_registers, double cycles_a_bit,
          uint64_t flash_bytes, uint64_t flash_wake, uint64_t period_ps,
          uint64_t memory_period_ps)
        : memory(g, t), flash(flash_bytes, FLASH_DELAY, flash_wake, FLASH_HALF),
          uart(cycles_a_bit), outward(size_t(pin_registers / 2)),
          inward(size_t(pin_registers - pin_registers / 2)), period(period_ps),
          memory_period(memory_period_ps) {
        dut = std::make_unique<Vsystem>(&context);
        dut->rst = 1;
#ifdef STILLNET_MEMORY_CLOCK
        dut->memory_rst = 1;
#endif
        quiet_inputs();
        for (int i = 0; i < 4; i++) tick();
        dut->rst = 0;
#ifdef STILLNET_MEMORY_CLOCK
        dut->memory_rst = 0;
#endif
    }

    void quiet_inputs() {
#ifndef STILLNET_NO_FLASH
        FLASH_PIN(cipo) = 1;
#endif
#ifdef STILLNET_BYTES
        STREAM(host, valid) = 0;
        STREAM(reply, ready) = 1;
#else
        dut->rx = 1;
#endif
    }

    void received(uint8_t byte) {
        if (byte == FLAG && !from_board.empty() && from_board.back() != FLAG) frame_seen = true;
        from_board.push_back(byte);
        activity = cycle;
    }

#ifndef STILLNET_NO_SDRAM
    // The edge that the part sees now: its pins just before it, through the IO cells' registers.
    uint32_t sdram_edge() {
        SdramPins pins;
        pins.cke = SDRAM(cke);
        pins.cs = SDRAM(cs);
        pins.ras = SDRAM(ras);
        pins.cas = SDRAM(cas);
        pins.we = SDRAM(we);
        pins.ba = SDRAM(ba);
        pins.a = SDRAM(a);
        pins.dqm = SDRAM(dqm);
        pins.dq = SDRAM(dq_o);
        pins.dq_oe = SDRAM(dq_oe);
        outward.push_back(pins);
        inward.push_back(memory.clock_edge(outward.front()));
        outward.pop_front();
        const uint32_t dq = inward.front();
        inward.pop_front();
        return dq;
    }
#endif

#ifdef STILLNET_MEMORY_CLOCK
    // Edges of the memory's clock up to the engine's next one. They wander by a fifth of a period,
    // so that in time both clocks stand to each other in every possible way.
    void memory_ticks() {
        for (; memory_time <= time; memory_time += memory_period) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            const uint64_t wander = random % (memory_period / 5);
            if (memory_time + wander > time) break;
            dut->memory_clk = 0;
            dut->eval();
            const uint32_t dq = sdram_edge();
            dut->memory_clk = 1;
            dut->eval();
            SDRAM(dq_i) = dq;
        }
        time += period;
    }
#endif

    void tick() {
#ifdef STILLNET_MEMORY_CLOCK
        memory_ticks();
#endif
        dut->clk = 0;
        dut->eval();
#ifdef STILLNET_BYTES
        const bool taken = STREAM(host, valid) && STREAM(host, ready);
        if (taken) {
            to_board.pop_front();
            activity = cycle;
        }
        if (STREAM(reply, valid) && STREAM(reply, ready)) received(uint8_t(STREAM(reply, payload)));
#else
        uint8_t byte;
        if (uart.sample(cycle, dut->tx, byte)) received(byte);
        if (!uart.idle()) activity = cycle;
#endif
#if !defined(STILLNET_NO_SDRAM) && !defined(STILLNET_MEMORY_CLOCK)
        const uint32_t dq = sdram_edge();
#endif
#ifndef STILLNET_NO_FLASH
        const bool cipo = flash.cycle(FLASH_PIN(cs), FLASH_PIN(sck), FLASH_PIN(copi));
#endif

        dut->clk = 1;
        dut->eval();
        cycle++;
#if !defined(STILLNET_NO_SDRAM) && !defined(STILLNET_MEMORY_CLOCK)
        SDRAM(dq_i) = dq;
#endif
#ifndef STILLNET_NO_FLASH
        FLASH_PIN(cipo) = cipo;
#endif
#ifdef STILLNET_BYTES
        STREAM(host, valid) = !to_board.empty();
        if (!to_board.empty()) STREAM(host, payload) = to_board.front();
#else
        dut->rx = uart.drive(cycle, to_board);
#endif
    }
};

extern "C" {

// geometry: row, column, bank, data bits. timing: in the order of SdramTiming.
Board* board_new(const int32_t* geometry, const int64_t* timing, int pin_registers,
                 double cycles_a_bit, uint64_t flash_bytes, uint64_t flash_wake,
                 uint64_t period_ps, uint64_t memory_period_ps) {
    const SdramGeometry g = {geometry[0], geometry[1], geometry[2], geometry[3]};
    return new Board(g, stillnet::sdram_timing(timing), pin_registers, cycles_a_bit, flash_bytes,
                     flash_wake, period_ps, memory_period_ps);
}
void board_delete(Board* b) { delete b; }
uint64_t board_cycle(Board* b) { return b->cycle; }
// Bytes into the flash.
void board_flash(Board* b, uint64_t at, const uint8_t* data, uint64_t size) {
    std::copy(data, data + size, b->flash.memory.begin() + ptrdiff_t(at));
}
// A part with fewer rows than the bitstream is made for.
void board_missing_rows(Board* b, int bits) {
#ifndef STILLNET_NO_SDRAM
    b->memory.missing_row_bits = bits;
#endif
}
uint64_t board_violations(Board* b) {
    return b->memory.violations + b->flash.violations + b->uart.framing_errors;
}
const char* board_violation(Board* b) {
    return b->memory.violations ? b->memory.first_violation.c_str()
                                : b->flash.first_violation.c_str();
}
// Lets the clock run, until a frame of the board is complete if `until_frame`.
void board_run(Board* b, uint64_t cycles, int until_frame) {
    const uint64_t end = b->cycle + cycles;
    while (b->cycle < end && !(until_frame && b->frame_seen)) b->tick();
}
}  // extern "C"

#include "host_side.h"
