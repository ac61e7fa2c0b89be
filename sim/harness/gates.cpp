// A board whose FPGA is its netlist, at its pads: oscillator, clocks of the PLL, SDRAM, flash, LEDs,
// and the far end of the serial port. The functions are those of board.cpp.
//
// Time is in picoseconds. A clock has its own period and phase, and whatever has an edge at one
// moment changes together. The SDRAM has the clock that leaves the FPGA at its pad; its data comes
// when its data sheet says, and between two words there is junk.

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "Vgates.h"
#include "flash_model.h"
#include "sdram_model.h"
#include "uart_model.h"
#include "verilated.h"

using stillnet::FlashModel;
using stillnet::HostUart;
using stillnet::SdramGeometry;
using stillnet::SdramModel;
using stillnet::SdramPins;
using stillnet::SdramTiming;

namespace {

constexpr int FLASH_DELAY = 2;   // cycles, as in board.cpp
constexpr uint8_t FLAG = 0x7E;   // begins and ends frames; only used to stop early
constexpr uint64_t LOCKED = 2'000'000;  // the PLL locks, in ps after power-up

struct Clock {
    CData* pin;
    double half, phase;
    uint64_t edges = 0;
    uint64_t next() const { return uint64_t(phase + double(edges) * half + 0.5); }
};

}  // namespace

struct Board {
    VerilatedContext context;
    std::unique_ptr<Vgates> dut;
    SdramModel memory;
    FlashModel flash;
    HostUart uart;
    std::deque<uint8_t> to_board, from_board;
    uint64_t cycle = 0, activity = 0, time = 0, mixed = 0;
    struct Change {
        uint64_t time;
        uint32_t value;
    };
    std::deque<Change> changes;  // of the data pins, in the order of time
    uint32_t noise = 1;
    bool frame_seen = false, heard = false;
    std::vector<Clock> clocks;

    Board(const SdramGeometry& g, const SdramTiming& t, double cycles_a_bit, uint64_t flash_bytes,
          uint64_t flash_wake, uint64_t period_ps)
        : memory(g, t), flash(flash_bytes, FLASH_DELAY, flash_wake, STILLNET_FLASH_HALF),
          uart(cycles_a_bit) {
        dut = std::make_unique<Vgates>(&context);
        dut->rx = 1;
        dut->flash_cipo = 1;
        dut->eval();
        const double half = double(period_ps) / 2;
        // All begin low; the engine's clock is the first, and a cycle is one of its own.
        clocks.push_back({&dut->pll_op, half, half * 2});
        clocks.push_back({&dut->pll_os, half, half * 2 + STILLNET_SDRAM_PHASE_PS});
        clocks.push_back({&dut->oscillator, STILLNET_OSCILLATOR_PS / 2., STILLNET_OSCILLATOR_PS});
    }

    void received(uint8_t byte) {
        if (byte == FLAG && !from_board.empty() && from_board.back() != FLAG) frame_seen = true;
        from_board.push_back(byte);
        activity = cycle;
    }

    // The part's pins; RAS, CAS, WE and chip select are active low there.
    SdramPins pins() {
        constexpr uint32_t all = STILLNET_DQ_MASK;
        SdramPins p;
        p.cke = dut->sdram_clk_en;
        p.cs = !dut->sdram_cs;
        p.ras = !dut->sdram_ras;
        p.cas = !dut->sdram_cas;
        p.we = !dut->sdram_we;
        p.ba = dut->sdram_ba;
        p.a = dut->sdram_a;
        p.dqm = dut->sdram_dqm;
        p.dq = uint32_t(dut->sdram_dq_o);
        p.dq_oe = (uint32_t(dut->sdram_dq_e) & all) == all;
        return p;
    }
    // Whether all outputs are driven, and all data pins or none.
    bool together() const {
        constexpr uint32_t all = STILLNET_DQ_MASK;
        const uint32_t driven = uint32_t(dut->sdram_dq_e) & all;
        return dut->enables == STILLNET_ENABLES && (driven == 0 || driven == all);
    }

    // The end of the current cycle: what the host and the flash see just before the edge.
    void before_edge(bool& rx, bool& cipo) {
        uint8_t byte;
        // Until the engine's clock begins, the register in the pad holds 0: a break, which the host
        // takes for noise.
        heard |= dut->tx;
        if (heard && uart.sample(cycle, dut->tx, byte)) received(byte);
        if (!uart.idle()) activity = cycle;
        cipo = flash.cycle(!dut->flash_cs, dut->flash_clk, dut->flash_copi);
        cycle++;
        rx = uart.drive(cycle, to_board);
    }

    // The next moment at which anything happens.
    void event() {
        uint64_t now = changes.empty() ? UINT64_MAX : changes.front().time;
        for (const Clock& c : clocks) now = std::min(now, c.next());
        time = now;
        if (now >= LOCKED) dut->pll_lock = 1;
        if (!changes.empty() && changes.front().time == now) {
            dut->sdram_dq_i = changes.front().value;
            changes.pop_front();
        }
        const bool edge = clocks[0].next() == now && !*clocks[0].pin;
        const bool memory_edge = clocks[1].next() == now && !*clocks[1].pin;
        bool rx = true, cipo = true;
        if (edge) before_edge(rx, cipo);
        SdramPins before;
        bool good = true;
        const bool low = !dut->sdram_clk;
        if (memory_edge) before = pins(), good = together();
        for (Clock& c : clocks)
            if (c.next() == now) {
                *c.pin = !*c.pin;
                c.edges++;
            }
        dut->eval();
        if (memory_edge && low && dut->sdram_clk) {
            mixed += !good;
            noise = noise * 1664525u + 1013904223u;
            const uint32_t junk = (noise ^ noise >> 15) & STILLNET_DQ_MASK;
            changes.push_back({now + STILLNET_DQ_HOLD_PS, junk});
            changes.push_back({now + STILLNET_DQ_ACCESS_PS, memory.clock_edge(before)});
        }
        if (edge) {
            dut->rx = rx;
            dut->flash_cipo = cipo;
        }
    }
};

extern "C" {

Board* board_new(const int32_t* geometry, const int64_t* timing, int, double cycles_a_bit,
                 uint64_t flash_bytes, uint64_t flash_wake, uint64_t period_ps, uint64_t) {
    const SdramGeometry g = {geometry[0], geometry[1], geometry[2], geometry[3]};
    return new Board(g, stillnet::sdram_timing(timing), cycles_a_bit, flash_bytes, flash_wake,
                     period_ps);
}
void board_delete(Board* b) { delete b; }
uint64_t board_cycle(Board* b) { return b->cycle; }
void board_flash(Board* b, uint64_t at, const uint8_t* data, uint64_t size) {
    std::copy(data, data + size, b->flash.memory.begin() + ptrdiff_t(at));
}
// Items of the SDRAM's bus into the part, as if they had been written long ago.
void board_fill(Board* b, uint64_t address, const uint32_t* items, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) b->memory.load(address + i, items[i]);
}
uint64_t board_violations(Board* b) {
    return b->memory.violations + b->flash.violations + b->uart.framing_errors + b->mixed;
}
const char* board_violation(Board* b) {
    if (b->memory.violations) return b->memory.first_violation.c_str();
    if (b->mixed) return "pins that belong together are not driven together";
    if (b->uart.framing_errors) return "a byte of the serial port has no stop bit";
    return b->flash.first_violation.c_str();
}
void board_run(Board* b, uint64_t cycles, int until_frame) {
    const uint64_t end = b->cycle + cycles;
    while (b->cycle < end && !(until_frame && b->frame_seen)) b->event();
}
}  // extern "C"

#include "host_side.h"
