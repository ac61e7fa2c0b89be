// Runs the SDRAM controller against the model of an SDRAM: an engine that reads and writes at
// random on one side, pins on the other. Python calls it through ctypes, whole runs at a time.
//
// Handshakes are sampled just before the rising edge, and inputs change just after it.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "Vsdram.h"
#include "sdram_model.h"
#include "verilated.h"

// Verilator writes the double underscores of Amaranth's port names in its own way.
#define PIN(name) dut->pins___05F##name
#define PORT(stream, name) dut->port___05F##stream##___05F##name

namespace {

using stillnet::SdramGeometry;
using stillnet::SdramModel;
using stillnet::SdramPins;
using stillnet::SdramTiming;

// Ports up to 64 bits are plain integers, wider ones arrays of 32-bit words, low word first.
template <typename T> bool get_bit(const T& port, int i) { return port >> i & 1; }
template <size_t N> bool get_bit(const VlWide<N>& port, int i) {
    return port[i / 32] >> (i % 32) & 1;
}
template <typename T> void put_bit(T& port, int i, bool value) {
    port = T((port & ~(T(1) << i)) | T(value) << i);
}
template <size_t N> void put_bit(VlWide<N>& port, int i, bool value) {
    port[i / 32] = (port[i / 32] & ~(1u << (i % 32))) | uint32_t(value) << (i % 32);
}
template <typename T> void put(T& port, int from, int count, uint64_t value) {
    for (int i = 0; i < count; i++) put_bit(port, from + i, value >> i & 1);
}

class Random {  // xorshift, so that runs repeat from their seed
  public:
    explicit Random(uint64_t seed) : state(seed * 2685821657736338717ull + 88172645463325252ull) {}
    uint32_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return uint32_t(state >> 32);
    }
    bool chance(uint32_t per_1024) { return per_1024 && (next() & 1023) < per_1024; }

  private:
    uint64_t state;
};

// Another observer of the pins, from another library: its instance, and its function.
using Observer = void (*)(void*, const uint32_t*);

}  // namespace

struct Harness {
    VerilatedContext context;
    std::unique_ptr<Vsdram> dut;
    SdramModel memory;
    int address_bits, length_bits, word_bits;
    std::deque<SdramPins> pins_delayed;
    std::deque<uint32_t> dq_delayed;
    Observer observer = nullptr;
    void* observer_instance = nullptr;
    std::string failure;
    bool was_valid = false;
    std::vector<uint8_t> was_word;
    bool expect_busy = false;

    Harness(const SdramGeometry& geometry, const SdramTiming& timing, int address_bits,
            int length_bits, int word_bits, int input_delay)
        : memory(geometry, timing), address_bits(address_bits), length_bits(length_bits),
          word_bits(word_bits), pins_delayed(size_t(input_delay / 2)),
          dq_delayed(size_t(input_delay - input_delay / 2)) {
        dut = std::make_unique<Vsdram>(&context);
        dut->rst = 1;
        for (int i = 0; i < 4; i++) edge();
        dut->rst = 0;
        edge();
    }

    void settle() {
        dut->clk = 0;
        dut->eval();
    }

    // The rising edge, for the controller and the memory.
    void edge() {
        settle();
        SdramPins pins;
        pins.cke = PIN(cke);
        pins.cs = PIN(cs);
        pins.ras = PIN(ras);
        pins.cas = PIN(cas);
        pins.we = PIN(we);
        pins.ba = PIN(ba);
        pins.a = PIN(a);
        pins.dqm = PIN(dqm);
        pins.dq = PIN(dq_o);
        pins.dq_oe = PIN(dq_oe);
        pins_delayed.push_back(pins);
        pins = pins_delayed.front();
        pins_delayed.pop_front();
        if (observer) {
            const uint32_t raw[] = {pins.cs, pins.ras, pins.cas, pins.we, pins.ba, pins.a};
            observer(observer_instance, raw);
        }
        const uint32_t dq = memory.clock_edge(pins);
        dut->clk = 1;
        dut->eval();
        dq_delayed.push_back(dq);
        PIN(dq_i) = dq_delayed.front();
        dq_delayed.pop_front();
    }

    void fail(const std::string& what) {
        if (failure.empty()) failure = "cycle " + std::to_string(memory.cycle) + ": " + what;
    }

    std::vector<uint8_t> word() {
        std::vector<uint8_t> bytes(size_t(word_bits / 8));
        for (int i = 0; i < word_bits; i++)
            if (get_bit(PORT(data, payload), i)) bytes[size_t(i / 8)] |= uint8_t(1 << (i % 8));
        return bytes;
    }

    // Reads and writes at the same time, until all is done and `tail` cycles have passed. Returns
    // the number of words and writes that are missing.
    uint64_t run(const uint64_t* read_address, const uint32_t* read_length, uint64_t reads,
                 uint8_t* out, uint64_t words, uint64_t* first_cycle, uint64_t* accept_cycle,
                 const uint64_t* write_address, const uint8_t* write_data, uint64_t writes,
                 uint32_t request_stall, uint32_t data_stall, uint32_t longest_pause,
                 uint64_t seed, uint64_t tail, uint64_t limit) {
        Random random(seed);
        uint64_t asked = 0, got = 0, wrote = 0, waited = 0, pause = 0;
        uint64_t request = 0, in_request = 0;  // of the words that arrive
        const size_t bytes = size_t(word_bits / 8);
        while (request < reads && !read_length[request]) request++;
        for (uint64_t cycles = 0; cycles < limit; cycles++) {
            if (!PORT(read, valid) && asked < reads && !random.chance(request_stall)) {
                put(PORT(read, payload), 0, address_bits, read_address[asked]);
                put(PORT(read, payload), address_bits, length_bits, read_length[asked]);
                PORT(read, valid) = 1;
            }
            if (!PORT(write, valid) && wrote < writes && !random.chance(request_stall)) {
                put(PORT(write, payload), 0, address_bits, write_address[wrote]);
                for (int i = 0; i < word_bits; i++)
                    put_bit(PORT(write, payload), address_bits + i,
                            write_data[wrote * bytes + size_t(i / 8)] >> (i % 8) & 1);
                PORT(write, valid) = 1;
            }
            if (pause) pause--;
            else if (longest_pause && random.chance(8)) pause = random.next() % longest_pause;
            PORT(data, ready) = !pause && !random.chance(data_stall);
            settle();

            const bool took_read = PORT(read, valid) && PORT(read, ready);
            const bool took_write = PORT(write, valid) && PORT(write, ready);
            const bool valid = PORT(data, valid);
            if (expect_busy && dut->port___05Fwrite_idle) fail("write_idle with a write under way");
            expect_busy = took_write;
            if (was_valid && !valid) fail("valid fell before ready");
            if (valid) {
                const std::vector<uint8_t> bytes_now = word();
                if (was_valid && bytes_now != was_word) fail("data changed while it waited");
                if (PORT(data, ready)) {
                    was_valid = false;
                    if (got == words) fail("more words than were asked for");
                    else std::memcpy(out + got * bytes, bytes_now.data(), bytes);
                    got++;
                    if (request < reads) {
                        if (!in_request && first_cycle) first_cycle[request] = memory.cycle;
                        if (++in_request == read_length[request]) {
                            in_request = 0;
                            do request++;
                            while (request < reads && !read_length[request]);
                        }
                    }
                } else {
                    was_valid = true;
                    was_word = bytes_now;
                }
            }
            const bool idle = dut->port___05Fwrite_idle;
            if (took_read && accept_cycle) accept_cycle[asked] = memory.cycle;
            edge();
            if (took_read) {
                PORT(read, valid) = 0;
                asked++;
            }
            if (took_write) {
                PORT(write, valid) = 0;
                wrote++;
            }
            if (asked == reads && got >= words && wrote == writes && idle && !took_write &&
                waited++ >= tail)
                break;
        }
        const uint64_t missing = (words > got ? words - got : 0) + (reads - asked) +
                                 (writes - wrote);
        return missing;
    }
};

extern "C" {

// Geometry, timings and widths in the order of the structures in sdram_model.h.
void* sdram_new(const int64_t* p) {
    SdramGeometry g{int(p[0]), int(p[1]), int(p[2]), int(p[3])};
    SdramTiming t{int(p[4]),  int(p[5]),  int(p[6]),  int(p[7]),  int(p[8]), int(p[9]),
                  int(p[10]), int(p[11]), int(p[12]), int(p[13]), p[14],     p[15],
                  p[16],      int(p[17]), int(p[18]), int(p[19]), int(p[20]), int(p[21])};
    return new Harness(g, t, int(p[22]), int(p[23]), int(p[24]), int(p[25]));
}
void sdram_delete(Harness* h) { delete h; }
void sdram_observe(Harness* h, Observer observer, void* instance) {
    h->observer = observer;
    h->observer_instance = instance;
}
void sdram_ticks(Harness* h, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) h->edge();
}
uint64_t sdram_run(Harness* h, const uint64_t* read_address, const uint32_t* read_length,
                   uint64_t reads, uint8_t* out, uint64_t words, uint64_t* first_cycle,
                   uint64_t* accept_cycle, const uint64_t* write_address,
                   const uint8_t* write_data, uint64_t writes, uint32_t request_stall,
                   uint32_t data_stall, uint32_t longest_pause, uint64_t seed, uint64_t tail,
                   uint64_t limit) {
    return h->run(read_address, read_length, reads, out, words, first_cycle, accept_cycle,
                  write_address, write_data, writes, request_stall, data_stall, longest_pause,
                  seed, tail, limit);
}
const char* sdram_failure(Harness* h) { return h->failure.c_str(); }
const char* sdram_violation(Harness* h) { return h->memory.first_violation.c_str(); }
// Values that Python asks for by number.
int64_t sdram_value(Harness* h, int which) {
    h->settle();
    switch (which) {
        case 0: return int64_t(h->memory.violations);
        case 1: return int64_t(h->memory.cycle);
        case 2: return h->memory.initialised();
        case 3: return h->memory.longest_refresh_gap;
        case 4: return h->memory.most_late;
        case 5: return h->dut->port___05Ferror;
        case 6: return h->dut->started;
        case 7: return h->dut->cycles;
        case 8: return h->dut->transfers;
        case 9: return h->dut->refreshes;
        case 10: return h->dut->row_stalls;
        case 11: return h->dut->port_stalls;
        case 12: return h->memory.cas_latency();
        case 13: return int64_t(h->memory.open_cycles);
        case 14: return int64_t(h->memory.closed_cycles);
        case 15: return int64_t(h->memory.asleep_cycles);
        case 24: return int64_t(h->memory.read_cycles);
        case 25: return int64_t(h->memory.sleeps);
        case 26: return h->dut->pins___05Fcke;
    }
    return which >= 16 && which < 24 ? int64_t(h->memory.commands[which - 16]) : -1;
}
void sdram_reset(Harness* h, uint64_t cycles) {
    h->dut->port___05Fread___05Fvalid = h->dut->port___05Fwrite___05Fvalid = 0;
    h->dut->rst = 1;
    for (uint64_t i = 0; i < cycles; i++) h->edge();
    h->dut->rst = 0;
    h->was_valid = h->expect_busy = false;
}
#ifdef STILLNET_COUNTS
// Counters of commands and states, once they stand still.
void sdram_counts(Harness* h, int hold, int clear) {
    h->dut->count_hold = uint8_t(hold);
    h->dut->count_clear = uint8_t(clear);
    h->edge();
    h->dut->count_clear = 0;
}
int64_t sdram_count(Harness* h, int select, int settle) {
    h->dut->count_select = uint8_t(select);
    for (int i = 0; i < settle; i++) h->edge();
    h->settle();
    return int64_t(h->dut->count);
}
#endif
void sdram_clear_counters(Harness* h) {
    h->dut->clear_counters = 1;
    h->edge();
    h->dut->clear_counters = 0;
}
void sdram_load(Harness* h, uint64_t address, const uint32_t* items, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) h->memory.load(address + i, items[i]);
}
void sdram_peek(Harness* h, uint64_t address, uint32_t* items, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) items[i] = h->memory.peek(address + i);
}
}
