// Runs the generated engine in a compiled model: clock, memory behind the memory port, register
// bus, input and output streams. Python calls it through ctypes and never touches single cycles.
//
// Handshakes are sampled just before the rising edge, and inputs change just after it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "Vengine.h"
#include "verilated.h"
#ifdef STILLNET_TRACE
#include "verilated_vcd_c.h"
#endif

// Verilator writes the double underscores of Amaranth's port names in its own way.
#define inputs__payload inputs___05Fpayload
#define inputs__ready inputs___05Fready
#define inputs__valid inputs___05Fvalid
#define memory__data__payload memory___05Fdata___05Fpayload
#define memory__data__ready memory___05Fdata___05Fready
#define memory__data__valid memory___05Fdata___05Fvalid
#define memory__read__payload memory___05Fread___05Fpayload
#define memory__read__ready memory___05Fread___05Fready
#define memory__read__valid memory___05Fread___05Fvalid
#define memory__write__payload memory___05Fwrite___05Fpayload
#define memory__write__ready memory___05Fwrite___05Fready
#define memory__write__valid memory___05Fwrite___05Fvalid
#define memory__write_idle memory___05Fwrite_idle
#define outputs__payload outputs___05Fpayload
#define outputs__ready outputs___05Fready
#define outputs__valid outputs___05Fvalid
#define registers__ack registers___05Fack
#define registers__address registers___05Faddress
#define registers__read_data registers___05Fread_data
#define registers__read_strobe registers___05Fread_strobe
#define registers__write_data registers___05Fwrite_data
#define registers__write_strobe registers___05Fwrite_strobe

namespace {

// Ports up to 64 bits are plain integers, wider ones arrays of 32-bit words, low word first.
inline uint64_t bits(uint64_t value, int from, int count) {
    return (value >> from) & (count >= 64 ? ~0ull : (1ull << count) - 1);
}
template <size_t N> uint64_t bits(const VlWide<N>& value, int from, int count) {
    uint64_t result = 0;
    for (int i = 0; i < count; i++)
        result |= uint64_t((value[(from + i) / 32] >> ((from + i) % 32)) & 1) << i;
    return result;
}
template <typename T> void set_word(T& port, const uint8_t* bytes, int count) {
    uint64_t value = 0;
    std::memcpy(&value, bytes, count);
    port = T(value);
}
template <size_t N> void set_word(VlWide<N>& port, const uint8_t* bytes, int count) {
    std::memcpy(port.data(), bytes, count);
}
template <typename T> void get_word(const T& port, int from, uint8_t* bytes, int count) {
    for (int i = 0; i < count; i++) bytes[i] = uint8_t(bits(port, from + 8 * i, 8));
}

struct Request {
    uint64_t address, length, when;
};

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

}  // namespace

struct Harness {
    VerilatedContext context;
    std::unique_ptr<Vengine> dut;
#ifdef STILLNET_TRACE
    std::unique_ptr<VerilatedVcdC> trace;
#endif
    int address_bits, word_bytes;
    std::vector<uint8_t> memory;
    std::deque<Request> requests;
    Random random{1};
    uint64_t cycle = 0;
    // behaviour of the memory and of the streams, probabilities in 1/1024
    uint32_t latency = 8, jitter = 0, outstanding = 16;
    uint32_t memory_stall = 0, request_stall = 0, input_stall = 0, output_stall = 0;
    uint64_t pace = 256, next_word = 0;  // of words, in 1/256 of a cycle
    bool offered = false;  // a word is on the port and must stay until taken
    bool out_of_range = false;

    const int16_t* inputs = nullptr;
    uint64_t inputs_left = 0;
    int16_t* outputs = nullptr;
    uint64_t outputs_left = 0;
    uint64_t* output_cycles = nullptr;  // cycle of each last element
    bool framing_error = false;
    uint64_t outputs_size = 0, outputs_position = 0;

    Harness(int address_bits, int word_bytes)
        : address_bits(address_bits), word_bytes(word_bytes) {
        context.traceEverOn(true);
        dut = std::make_unique<Vengine>(&context);
        dut->rst = 1;
        for (int i = 0; i < 4; i++) tick();
        dut->rst = 0;
        tick();
    }

    void tick() {
        dut->clk = 0;
        dut->eval();
#ifdef STILLNET_TRACE
        if (trace) trace->dump(cycle * 10);
#endif
        // What happens at this edge.
        const bool read = dut->memory__read__valid && dut->memory__read__ready;
        const bool word = dut->memory__data__valid && dut->memory__data__ready;
        const bool write = dut->memory__write__valid && dut->memory__write__ready;
        const bool input = dut->inputs__valid && dut->inputs__ready;
        const bool output = dut->outputs__valid && dut->outputs__ready;
        if (read) {
            Request request;
            request.address = bits(dut->memory__read__payload, 0, address_bits);
            request.length = bits(dut->memory__read__payload, address_bits, 16);
            request.when = cycle + latency + (jitter ? random.next() % (jitter + 1) : 0);
            if ((request.address + request.length) * word_bytes > memory.size())
                out_of_range = true;
            if (request.length) requests.push_back(request);
        }
        if (write) {
            const uint64_t address = bits(dut->memory__write__payload, 0, address_bits);
            if ((address + 1) * word_bytes > memory.size()) memory.resize((address + 1) * word_bytes);
            get_word(dut->memory__write__payload, address_bits, &memory[address * word_bytes],
                     word_bytes);
        }
        if (word) {
            requests.front().address++;
            if (--requests.front().length == 0) requests.pop_front();
            offered = false;
        }
        if (input) {
            inputs++;
            inputs_left--;
        }
        if (output && outputs_left) {
            *outputs++ = int16_t(bits(dut->outputs__payload, 0, 16));
            const bool last = bits(dut->outputs__payload, 16, 1);
            outputs_position++;
            if (last != (outputs_position == outputs_size)) framing_error = true;
            if (outputs_position == outputs_size) {
                outputs_position = 0;
                if (output_cycles) *output_cycles++ = cycle;
            }
            outputs_left--;
        }
        dut->clk = 1;
        dut->eval();
#ifdef STILLNET_TRACE
        if (trace) trace->dump(cycle * 10 + 5);
#endif
        cycle++;

        // What the other side shows after it. Valid stays until the transfer.
        dut->memory__read__ready =
            requests.size() < outstanding && !random.chance(request_stall);
        if (!offered && !requests.empty() && cycle >= requests.front().when &&
            cycle * 256 >= next_word && !random.chance(memory_stall)) {
            static const uint8_t zeros[64] = {};
            const uint64_t place = requests.front().address * word_bytes;
            const bool inside = place + word_bytes <= memory.size();
            set_word(dut->memory__data__payload, inside ? &memory[place] : zeros, word_bytes);
            offered = true;
            next_word = std::max(next_word, (cycle - 1) * 256) + pace;
        }
        dut->memory__data__valid = offered;
        dut->memory__write__ready = 1;
        dut->memory__write_idle = 1;
        if (!dut->inputs__valid || input) {
            const bool valid = inputs_left && !random.chance(input_stall);
            dut->inputs__valid = valid;
            if (valid) dut->inputs__payload = uint16_t(*inputs);
        }
        dut->outputs__ready = outputs_left && !random.chance(output_stall);
    }
};

extern "C" {

Harness* stillnet_new(int address_bits, int word_bytes) {
    return new Harness(address_bits, word_bytes);
}
void stillnet_delete(Harness* h) {
#ifdef STILLNET_TRACE
    if (h->trace) h->trace->close();
#endif
    delete h;
}
int stillnet_trace(Harness* h, const char* path) {
#ifdef STILLNET_TRACE
    h->trace = std::make_unique<VerilatedVcdC>();
    h->dut->trace(h->trace.get(), 99);
    h->trace->open(path);
    return 0;
#else
    return -1;
#endif
}
void stillnet_memory(Harness* h, const uint8_t* data, uint64_t size) {
    h->memory.assign(data, data + size);
}
uint64_t stillnet_memory_copy(Harness* h, uint8_t* data, uint64_t size) {
    std::memcpy(data, h->memory.data(), std::min<uint64_t>(size, h->memory.size()));
    return h->memory.size();
}
void stillnet_behaviour(Harness* h, uint32_t latency, uint32_t jitter, uint32_t outstanding,
                        uint32_t memory_stall, uint32_t request_stall, uint32_t input_stall,
                        uint32_t output_stall, uint32_t pace, uint64_t seed) {
    h->pace = pace;
    h->latency = latency;
    h->jitter = jitter;
    h->outstanding = outstanding;
    h->memory_stall = memory_stall;
    h->request_stall = request_stall;
    h->input_stall = input_stall;
    h->output_stall = output_stall;
    h->random = Random(seed);
}
uint64_t stillnet_cycle(Harness* h) { return h->cycle; }
void stillnet_ticks(Harness* h, uint64_t count) {
    while (count--) h->tick();
}
void stillnet_write(Harness* h, uint32_t address, uint32_t data) {
    h->dut->registers__address = address;
    h->dut->registers__write_data = data;
    h->dut->registers__write_strobe = 1;
    h->tick();
    h->dut->registers__write_strobe = 0;
    do {
        h->dut->clk = 0;
        h->dut->eval();
        const bool ack = h->dut->registers__ack;
        h->tick();
        if (ack) break;
    } while (true);
}
uint32_t stillnet_read(Harness* h, uint32_t address) {
    h->dut->registers__address = address;
    h->dut->registers__read_strobe = 1;
    h->tick();
    h->dut->registers__read_strobe = 0;
    while (true) {
        h->dut->clk = 0;
        h->dut->eval();
        const bool ack = h->dut->registers__ack;
        const uint32_t data = h->dut->registers__read_data;
        h->tick();
        if (ack) return data;
    }
}
void stillnet_read_many(Harness* h, uint32_t address, int32_t* data, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) data[i] = int32_t(stillnet_read(h, address));
}
void stillnet_write_many(Harness* h, uint32_t address, const int32_t* data, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) stillnet_write(h, address, uint32_t(data[i]));
}
// Offers all inputs and takes all outputs; returns the outputs that are missing when the limit of
// cycles is reached, 0 if all is well, or -1 for a last mark in the wrong place.
int64_t stillnet_run(Harness* h, const int16_t* inputs, uint64_t input_count, int16_t* outputs,
                     uint64_t output_count, uint64_t output_size, uint64_t* output_cycles,
                     uint64_t limit) {
    h->inputs = inputs;
    h->inputs_left = input_count;
    h->outputs = outputs;
    h->outputs_left = output_count;
    h->outputs_size = output_size;
    h->outputs_position = 0;
    h->output_cycles = output_cycles;
    h->framing_error = false;
    const uint64_t end = h->cycle + limit;
    while ((h->inputs_left || h->outputs_left) && h->cycle < end && !h->framing_error) h->tick();
    const int64_t missing = h->framing_error ? -1 : int64_t(h->outputs_left + h->inputs_left);
    h->inputs_left = h->outputs_left = 0;
    h->dut->inputs__valid = 0;
    return missing;
}
int stillnet_out_of_range(Harness* h) { return h->out_of_range; }

}  // extern "C"
