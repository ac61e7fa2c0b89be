// Runs an engine with its host link in a compiled model, and gives Python the two byte streams.
//
// Handshakes are sampled just before the rising edge, and inputs change just after it.

#include <cstdint>
#include <deque>
#include <memory>

#include "Vlink_bench.h"
#include "verilated.h"

namespace {
constexpr uint8_t FLAG = 0x7E;
}

struct LinkHarness {
    VerilatedContext context;
    std::unique_ptr<Vlink_bench> dut;
    std::deque<uint8_t> to_board, from_board;
    uint64_t cycle = 0;
    uint32_t rx_gap = 0, tx_gap = 0;  // cycles between bytes, at least
    uint64_t rx_next = 0, tx_next = 0;
    bool frame_seen = false;  // a flag with something in front of it came

    explicit LinkHarness(int serial) {
        dut = std::make_unique<Vlink_bench>(&context);
        dut->serial = serial;
        dut->rst = 1;
        for (int i = 0; i < 4; i++) tick();
        dut->rst = 0;
        tick();
    }

    void tick() {
        dut->clk = 0;
        dut->eval();
        const bool taken = dut->rx_valid && dut->rx_ready;
        if (taken) {
            to_board.pop_front();
            rx_next = cycle + 1 + rx_gap;
        }
        if (dut->tx_valid && dut->tx_ready) {
            const uint8_t byte = dut->tx_payload;
            if (byte == FLAG && !from_board.empty() && from_board.back() != FLAG)
                frame_seen = true;
            from_board.push_back(byte);
            tx_next = cycle + 1 + tx_gap;
        }
        dut->clk = 1;
        dut->eval();
        cycle++;
        if (!dut->rx_valid || taken) {
            dut->rx_valid = !to_board.empty() && cycle >= rx_next;
            if (dut->rx_valid) dut->rx_payload = to_board.front();
        }
        dut->tx_ready = cycle >= tx_next;
    }
};

extern "C" {

LinkHarness* link_new(int serial) { return new LinkHarness(serial); }
void link_delete(LinkHarness* h) { delete h; }
uint64_t link_cycle(LinkHarness* h) { return h->cycle; }
void link_pace(LinkHarness* h, uint32_t rx_gap, uint32_t tx_gap) {
    h->rx_gap = rx_gap;
    h->tx_gap = tx_gap;
}
void link_push(LinkHarness* h, const uint8_t* data, uint64_t size) {
    h->to_board.insert(h->to_board.end(), data, data + size);
}
uint64_t link_waiting(LinkHarness* h) { return h->to_board.size(); }
// Lets the clock run, until a frame of the board is complete if `until_frame`.
void link_run(LinkHarness* h, uint64_t cycles, int until_frame) {
    const uint64_t end = h->cycle + cycles;
    while (h->cycle < end && !(until_frame && h->frame_seen)) h->tick();
}
uint64_t link_pull(LinkHarness* h, uint8_t* data, uint64_t size) {
    uint64_t count = 0;
    while (count < size && !h->from_board.empty()) {
        data[count++] = h->from_board.front();
        h->from_board.pop_front();
    }
    h->frame_seen = false;
    return count;
}

}  // extern "C"
