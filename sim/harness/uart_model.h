// The host's end of a serial line, for compiled simulation.

#pragma once

#include <cstdint>
#include <deque>

namespace stillnet {

// 8N1, at the host's own rate, which is no whole number of cycles.
class HostUart {
  public:
    explicit HostUart(double cycles_a_bit) : period(cycles_a_bit) {}

    // The level that the host drives, at a cycle.
    bool drive(uint64_t cycle, std::deque<uint8_t>& bytes) {
        if (!sending) {
            if (bytes.empty()) return true;
            shift = uint32_t(bytes.front()) << 1 | 1u << 9;
            bytes.pop_front();
            start = double(cycle);
            sending = true;
        }
        const int bit = int((double(cycle) - start) / period);
        if (bit < 10) return shift >> bit & 1;
        sending = false;
        return true;
    }
    // Looks at the level that the board drives; true when a byte is there.
    bool sample(uint64_t cycle, bool level, uint8_t& byte) {
        if (!receiving) {
            if (level) return false;
            receiving = true;
            begin = double(cycle);
            bits = 0;
            value = 0;
            return false;
        }
        if (double(cycle) < begin + (bits + 0.5) * period) return false;
        if (bits >= 1 && bits <= 8) value |= uint32_t(level) << (bits - 1);
        if (bits++ < 9) return false;
        receiving = false;
        if (!level) framing_errors++;
        byte = uint8_t(value);
        return level;
    }
    bool idle() const { return !sending && !receiving; }
    uint64_t framing_errors = 0;

  private:
    double period, start = 0, begin = 0;
    bool sending = false, receiving = false;
    uint32_t shift = 0, value = 0;
    int bits = 0;
};

}  // namespace stillnet
