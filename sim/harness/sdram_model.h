// An SDR SDRAM at its pins, for compiled simulation. Written from the datasheets' state diagram,
// truth tables and timing figures, and strict: what a datasheet forbids is a violation, counted and
// described. Commands are as the controller's pins have them: cs, ras, cas and we are active high.
//
//     SdramModel memory(geometry, timing);
//     dq_i = memory.clock_edge(pins);   // at each rising edge, with the pins just before it;
//                                       // returns what the bus carries at the next rising edge
//
// Addresses of load() and peek() count items of the data bus, as row | bank | column. What was
// never written is junk that depends on the address, so that nobody relies on it.

#ifndef STILLNET_SDRAM_MODEL_H
#define STILLNET_SDRAM_MODEL_H

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace stillnet {

struct SdramGeometry {
    int row_bits, column_bits, bank_bits, data_bits;
};

// In cycles. Datasheet names; `window` is 64 ms (or 32), in which `refreshes` commands are required.
struct SdramTiming {
    int trcd, trp, tras, tras_max, trc, trfc, trrd, twr, tmrd;
    int postponed;            // refreshes that may be late
    int64_t window, refreshes;
    int64_t startup;          // pause after power-up
    int startup_refreshes;    // before the first ACTIVATE
    int max_cas, min_cas;     // latencies that the part has at this clock
    int txp = 2, tcke = 1;    // power-down: CKE high to a command, CKE low at least
};

struct SdramPins {
    bool cke = false, cs = false, ras = false, cas = false, we = false;
    uint32_t ba = 0, a = 0, dqm = 0, dq = 0;
    bool dq_oe = false;
};

class SdramModel {
  public:
    SdramModel(const SdramGeometry& geometry, const SdramTiming& timing)
        : g(geometry), t(timing), banks(size_t(1) << geometry.bank_bits),
          refresh_times(size_t(timing.refreshes), NEVER) {}

    // Violations so far, and what the first one was.
    uint64_t violations = 0;
    std::string first_violation;
    // Commands seen, by their number: we | cas << 1 | ras << 2.
    uint64_t commands[8] = {};
    uint64_t cycle = 0;
    // Address lines of rows, from the highest, that the part does not look at: it is a smaller one
    // than the geometry says.
    int missing_row_bits = 0;
    bool initialised() const { return mode_set; }
    int cas_latency() const { return cas; }
    // Cycles with a row open, with none, in power-down; with data of the part on the bus; how often
    // power-down began.
    uint64_t open_cycles = 0, closed_cycles = 0, asleep_cycles = 0, read_cycles = 0, sleeps = 0;
    // The longest time without a refresh, and the most that were ever late.
    int64_t longest_refresh_gap = 0, most_late = 0;

    void load(uint64_t address, uint32_t value) { at(address) = value & mask(); }
    uint32_t peek(uint64_t address) { return at(address); }

    uint32_t clock_edge(const SdramPins& pins) {
        now = int64_t(cycle++);
        dqm_before = dqm_last;
        dqm_last = pins.dqm;
        if (pins.cke && !started_cke) {
            started_cke = true;
            powered = rose = now;
        }
        if (started_cke) clock_enable(pins);
        check_refresh();
        if (pins.cs && pins.cke) command(pins);
        count_state();
        continue_write(pins);
        check_bus(pins);
        fetch();
        const Item& next = bus[(now + 1) % RING];
        const bool driven = next.time == now + 1;
        const uint32_t noise = uint32_t(junk(uint64_t(now)));
        if (!driven) return noise & mask();
        // DQM hides data two cycles later, byte by byte.
        uint32_t hidden = 0;
        for (int byte = 0; byte < g.data_bits / 8; byte++)
            if (dqm_before >> byte & 1) hidden |= 0xFFu << (8 * byte);
        return ((next.value & ~hidden) | (noise & hidden)) & mask();
    }

  private:
    static constexpr int64_t NEVER = INT64_MIN / 4;
    static constexpr int RING = 16;
    enum { NOP, STOP, READ, WRITE, ACTIVATE, PRECHARGE, REFRESH, MODE };

    struct Bank {
        bool open = false;
        uint32_t row = 0;
        std::vector<uint32_t>* columns = nullptr;
        int64_t activated = NEVER, precharged = NEVER, written = NEVER;
    };
    struct Item {
        int64_t time = NEVER;
        uint32_t value = 0;
    };
    struct Burst {
        bool active = false;
        uint32_t bank = 0, column = 0;
        int position = 0, length = 0;
    };

    SdramGeometry g;
    SdramTiming t;
    std::vector<Bank> banks;
    std::unordered_map<uint64_t, std::vector<uint32_t>> rows;
    Item bus[RING];
    Burst reading, writing;
    int64_t now = 0, powered = NEVER;
    int64_t refreshed = NEVER, mode_time = NEVER, any_activated = NEVER;
    int64_t rose = NEVER, fell = NEVER;
    bool awake = true;
    bool started_cke = false, mode_set = false, first_precharge = false;
    int startup_refreshes = 0;
    int cas = 0, burst = 1;
    bool single_write = false;
    uint32_t dqm_last = 0, dqm_before = 0;
    // Refreshes that are late, and the fraction of an interval since the last one came due.
    int64_t late = 0, fraction = 0;
    std::vector<int64_t> refresh_times;
    size_t refresh_position = 0;

    uint32_t mask() const {
        return g.data_bits == 32 ? 0xFFFFFFFFu : (1u << g.data_bits) - 1;
    }
    static uint64_t junk(uint64_t x) {
        x = (x + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
        return (x ^ (x >> 29)) * 0x94D049BB133111EBull >> 17;
    }
    std::vector<uint32_t>& row_of(uint64_t row, uint64_t bank) {
        const uint64_t key = row << g.bank_bits | bank;
        std::vector<uint32_t>& columns = rows[key];
        if (columns.empty()) {
            columns.resize(size_t(1) << g.column_bits);
            for (size_t c = 0; c < columns.size(); c++)
                columns[c] = uint32_t(junk(key << g.column_bits | c)) & mask();
        }
        return columns;
    }
    uint32_t& at(uint64_t address) {
        const uint64_t column = address & ((1ull << g.column_bits) - 1);
        const uint64_t bank = address >> g.column_bits & ((1ull << g.bank_bits) - 1);
        const uint64_t row = address >> (g.column_bits + g.bank_bits);
        return row_of(row & ((1ull << g.row_bits) - 1), bank)[column];
    }

    void fail(const std::string& what) {
        if (!violations++) first_violation = "cycle " + std::to_string(now) + ": " + what;
    }
    // At least `distance` cycles must have passed since `event`.
    void since(int64_t event, int distance, const char* rule) {
        if (now - event < distance)
            fail(std::string(rule) + ": " + std::to_string(now - event) + " cycles instead of " +
                 std::to_string(distance));
    }

    // Power-down: only of a part that has nothing to do, with all rows closed. Self-refresh and
    // power-down with open rows are not modelled, so they count as wrong too.
    void clock_enable(const SdramPins& pins) {
        if (!pins.cke && pins.cs && (pins.ras || pins.cas || pins.we))
            fail("a command while CKE is low");
        if (pins.cke == awake) return;
        awake = pins.cke;
        if (awake) {
            rose = now;
            since(fell, t.tcke, "tCKE");
            return;
        }
        fell = now;
        sleeps++;
        if (!mode_set) fail("power-down before the mode register was loaded");
        since(mode_time, t.tmrd, "tMRD before power-down");
        since(refreshed, t.trfc, "tRFC before power-down");
        since(rose, t.txp, "tXP before power-down");
        for (const Bank& bank : banks) {
            if (bank.open) fail("power-down with an open bank");
            since(bank.precharged, t.trp, "tRP before power-down");
        }
        if (reading.active || writing.active) fail("power-down in a burst");
        for (const Item& item : bus)
            if (item.time >= now) fail("power-down with data on the way");
    }

    void count_state() {
        bool any = false;
        for (const Bank& bank : banks) any = any || bank.open;
        if (!awake) asleep_cycles++;
        else if (any) open_cycles++;
        else closed_cycles++;
        if (bus[now % RING].time == now) read_cycles++;
    }

    void command(const SdramPins& pins) {
        const int code = int(pins.we) | int(pins.cas) << 1 | int(pins.ras) << 2;
        commands[code]++;
        if (code == NOP) return;
        since(mode_time, t.tmrd, "tMRD");
        since(refreshed, t.trfc, "tRFC");
        since(rose, t.txp, "tXP");
        if (!first_precharge) {
            if (code != PRECHARGE || !(pins.a >> 10 & 1))
                fail("the first command must be PRECHARGE of all banks");
            since(powered, int(t.startup), "pause after power-up");
        }
        switch (code) {
            case ACTIVATE: activate(pins); break;
            case READ: read(pins); break;
            case WRITE: write(pins); break;
            case PRECHARGE: precharge(pins); break;
            case REFRESH: refresh(); break;
            case MODE: load_mode(pins); break;
            case STOP: reading.active = writing.active = false; break;
        }
    }

    void activate(const SdramPins& pins) {
        Bank& bank = banks[pins.ba];
        if (!mode_set) fail("ACTIVATE before the mode register was loaded");
        if (bank.open) fail("ACTIVATE of an open bank");
        if (pins.a >> g.row_bits) fail("ACTIVATE of a row that the part does not have");
        since(bank.precharged, t.trp, "tRP");
        since(bank.activated, t.trc, "tRC");
        since(any_activated, t.trrd, "tRRD");
        bank.open = true;
        bank.row = pins.a & ((1u << (g.row_bits - missing_row_bits)) - 1);
        bank.columns = &row_of(bank.row, pins.ba);
        bank.activated = any_activated = now;
    }

    uint32_t column_of(const SdramPins& pins) {
        if (pins.a >> 10 & 1) fail("auto precharge is not modelled");
        const uint32_t column = (pins.a & 0x3FF) | (pins.a >> 11) << 10;
        if (column >> g.column_bits) fail("column that the part does not have");
        return column & ((1u << g.column_bits) - 1);
    }

    void read(const SdramPins& pins) {
        Bank& bank = banks[pins.ba];
        writing.active = false;
        reading = Burst{bank.open, pins.ba, column_of(pins), 0, burst};
        if (!bank.open) return fail("READ of a closed bank");
        since(bank.activated, t.trcd, "tRCD");
    }

    void write(const SdramPins& pins) {
        Bank& bank = banks[pins.ba];
        reading.active = false;
        writing = Burst{bank.open, pins.ba, column_of(pins), 0, single_write ? 1 : burst};
        if (!bank.open) return fail("WRITE to a closed bank");
        since(bank.activated, t.trcd, "tRCD");
    }

    void precharge(const SdramPins& pins) {
        first_precharge = true;
        const bool all = pins.a >> 10 & 1;
        for (uint32_t b = 0; b < banks.size(); b++) {
            if (!all && b != pins.ba) continue;
            Bank& bank = banks[b];
            if (reading.active && reading.bank == b) reading.active = false;
            if (writing.active && writing.bank == b) writing.active = false;
            if (!bank.open) continue;
            since(bank.activated, t.tras, "tRAS");
            if (now - bank.activated > t.tras_max) fail("tRAS: a row was open for too long");
            since(bank.written, t.twr, "tWR");
            bank.open = false;
            bank.precharged = now;
        }
    }

    void refresh() {
        for (const Bank& bank : banks) {
            if (bank.open) fail("REFRESH with an open bank");
            since(bank.precharged, t.trp, "tRP before REFRESH");
            since(bank.activated, t.trc, "tRC before REFRESH");
        }
        if (refreshed != NEVER && mode_set && now - refreshed > longest_refresh_gap)
            longest_refresh_gap = now - refreshed;
        refreshed = now;
        if (!mode_set) startup_refreshes++;
        if (late > -t.postponed) late--;
        // Every row comes round once in `refreshes` commands.
        int64_t& before = refresh_times[refresh_position];
        if (before != NEVER && now - before > t.window) fail("a row was not refreshed within its window");
        before = now;
        refresh_position = (refresh_position + 1) % refresh_times.size();
    }

    void load_mode(const SdramPins& pins) {
        for (const Bank& bank : banks) {
            if (bank.open) fail("LOAD MODE with an open bank");
            since(bank.precharged, t.trp, "tRP before LOAD MODE");
        }
        if (startup_refreshes < t.startup_refreshes) fail("too few refreshes before LOAD MODE");
        cas = pins.a >> 4 & 7;
        if (cas < t.min_cas || cas > t.max_cas) fail("CAS latency that the part does not have");
        const int length = pins.a & 7;
        burst = length == 7 ? 1 << g.column_bits : 1 << length;
        if (length > 3 && length != 7) fail("reserved burst length");
        if (pins.a >> 3 & 1) fail("interleaved bursts are not modelled");
        if ((pins.a & ~0x27Fu) || pins.ba) fail("reserved bits in the mode register");
        single_write = pins.a >> 9 & 1;
        mode_set = true;
        mode_time = now;
        late = fraction = 0;
    }

    void continue_write(const SdramPins& pins) {
        if (!writing.active) return;
        if (!pins.dq_oe) fail("WRITE without data on the bus");
        Bank& bank = banks[writing.bank];
        uint32_t& item = (*bank.columns)[wrapped(writing)];
        for (int byte = 0; byte < g.data_bits / 8; byte++) {
            const uint32_t bits = 0xFFu << (8 * byte);
            if (!(pins.dqm >> byte & 1)) item = (item & ~bits) | (pins.dq & bits);
        }
        bank.written = now;
        if (++writing.position == writing.length) writing.active = false;
    }

    uint32_t wrapped(const Burst& b) const {
        const uint32_t low = uint32_t(b.length) - 1;
        return (b.column & ~low) | ((b.column + uint32_t(b.position)) & low);
    }

    // The item of this slot reaches the bus `cas` cycles later.
    void fetch() {
        if (!reading.active) return;
        bus[(now + cas) % RING] = Item{now + cas, (*banks[reading.bank].columns)[wrapped(reading)]};
        if (++reading.position == reading.length && reading.length <= 8) reading.active = false;
    }

    // Data of one side must be off the bus for a cycle before the other side drives it.
    void check_bus(const SdramPins& pins) {
        if (!pins.dq_oe) return;
        const bool mine = bus[now % RING].time == now || bus[(now - 1 + RING) % RING].time == now - 1;
        if (mine && now > 0) fail("both sides drive the bus");
    }

    void check_refresh() {
        if (!mode_set) return;
        fraction += t.refreshes;
        if (fraction < t.window) return;
        fraction -= t.window;
        if (++late > most_late) most_late = late;
        if (late > t.postponed) fail("more refreshes are late than may be");
    }
};

// From the numbers that Python gives, in the order of the members.
inline SdramTiming sdram_timing(const int64_t* n) {
    SdramTiming t;
    int* first[] = {&t.trcd, &t.trp, &t.tras, &t.tras_max, &t.trc, &t.trfc, &t.trrd, &t.twr,
                    &t.tmrd, &t.postponed};
    for (size_t i = 0; i < 10; i++) *first[i] = int(n[i]);
    t.window = n[10];
    t.refreshes = n[11];
    t.startup = n[12];
    int* last[] = {&t.startup_refreshes, &t.max_cas, &t.min_cas, &t.txp, &t.tcke};
    for (size_t i = 0; i < 5; i++) *last[i] = int(n[13 + i]);
    return t;
}

// What the model counted: commands by their code (we | cas << 1 | ras << 2), then cycles.
inline uint64_t sdram_count(const SdramModel& m, int which) {
    const uint64_t states[] = {m.open_cycles, m.closed_cycles, m.asleep_cycles, m.read_cycles,
                               m.sleeps};
    return which < 8 ? m.commands[which] : states[which - 8];
}

}  // namespace stillnet

#endif
