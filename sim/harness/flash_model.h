// An SPI flash as seen from its pins, mode 0, one data line: what a board reads its configuration
// and an image from. From the data sheet of the W25Q128JV (revision F); the longest wake-up time of
// the common parts. It begins in deep power-down, where it hears nothing but RELEASE.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace stillnet {

class FlashModel {
  public:
    // `bytes` of memory, all erased. Cycles are the FPGA's. `delay`: cycles from a falling edge of
    // the clock at the FPGA's register to new data at the other one: pads, and tCLQV = 6 ns.
    // `wake`: cycles of tRES1. `slowest_half`: least cycles that the clock is high, or low.
    FlashModel(uint64_t bytes, int delay, uint64_t wake, int least_half)
        : memory(bytes, 0xFF), delay(delay), wake_cycles(wake), least_half(least_half) {}

    std::vector<uint8_t> memory;
    uint64_t violations = 0;
    std::string first_violation;
    uint64_t bytes_read = 0;
    uint64_t idle_clocks = 0;  // with the part not selected

    // One cycle with the levels at the pins; returns the level of the data output.
    bool cycle(bool cs, bool sck, bool copi) {
        now++;
        if (cs != last_cs) {
            if (sck) complain("selected or deselected with the clock high");
            if (!cs) deselect();
            bits = 0;
            command = 0;
            driving = false;
        }
        if (sck != last_sck) {
            if (now - edge < uint64_t(least_half)) complain("clock too fast");
            edge = now;
            if (!cs) {
                idle_clocks += sck;
                if (commands) complain("clock while not selected");
            } else if (sck) {
                if (copi != last_copi) complain("data changes at the rising edge of the clock");
                rise(copi);
            } else {
                fall();
            }
        }
        last_cs = cs;
        last_sck = sck;
        last_copi = copi;
        // A line that nobody drives is pulled up.
        line = line << 1 | uint64_t(!driving || level);
        return line >> delay & 1;
    }

  private:
    enum : uint8_t { RELEASE = 0xAB, READ = 0x03, FAST_READ = 0x0B, IDENTITY = 0x9F };

    int delay;
    uint64_t wake_cycles;
    int least_half;
    uint64_t now = 0, edge = 0, commands = 0, awake_at = 0, line = ~uint64_t(0);
    bool last_cs = false, last_sck = false, last_copi = false;
    bool asleep = true, driving = false, level = true;
    uint64_t bits = 0;  // since it was selected
    uint32_t shift = 0;
    uint8_t command = 0, out = 0;
    uint64_t address = 0, first_out = 0;

    void complain(const char* what) {
        if (!violations++) first_violation = what;
    }

    void deselect() {
        if (command == RELEASE && bits == 8 && asleep) {
            asleep = false;
            awake_at = now + wake_cycles;
        }
    }

    void rise(bool copi) {
        shift = shift << 1 | uint32_t(copi);
        if (++bits == 8) {
            command = uint8_t(shift);
            commands++;
            first_out = command == READ ? 32 : command == FAST_READ ? 40 : 8;
            if (command == RELEASE) return;
            if (asleep) return complain("a command while in deep power-down");
            if (now < awake_at) complain("a command before the part is awake");
            if (command != READ && command != FAST_READ && command != IDENTITY)
                complain("an unknown command");
        }
        if (bits == 32 && command != IDENTITY) address = shift & 0xFFFFFF;
    }

    void fall() {
        if (asleep || bits < 8 || bits < first_out) return;
        if ((bits - first_out) % 8 == 0) {
            if (command == IDENTITY) {
                static const uint8_t identity[3] = {0xEF, 0x40, 0x18};  // W25Q128JV
                out = identity[(bits - first_out) / 8 % 3];
            } else if (command == READ || command == FAST_READ) {
                if (address >= memory.size()) complain("a read behind the end");
                out = memory[size_t(address % memory.size())];
                address++;
                bytes_read++;
            } else {
                return;
            }
            driving = true;
        }
        level = out >> 7;
        out = uint8_t(out << 1);
    }
};

}  // namespace stillnet
