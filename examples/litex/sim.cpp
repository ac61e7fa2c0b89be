// Clock and serial line of the simulated system: runs until the program sends its last character.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "Vsystem.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

// Runs at most `limit` cycles; stores what the system sends, up to character 4 or `size` of them.
// Gives how many characters came.
extern "C" uint64_t run_system(uint64_t limit, char *text, uint64_t size)
{
    auto context = std::make_unique<VerilatedContext>();
    auto system = std::make_unique<Vsystem>(context.get());
    uint64_t sent = 0;
    system->sys_clk = 0;
    system->serial_source_ready = 1;
    system->serial_sink_valid = 0;
    for (uint64_t cycle = 0; cycle < limit && sent < size; cycle++) {
        system->sys_clk = 0;
        system->eval();
        const bool valid = system->serial_source_valid;
        const char data = static_cast<char>(system->serial_source_data);
        system->sys_clk = 1;
        system->eval();
        if (!valid) continue;
        if (data == 4) break;
        text[sent++] = data;
    }
    return sent;
}
