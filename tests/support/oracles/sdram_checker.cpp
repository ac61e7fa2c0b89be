// LiteDRAM's timing checker, converted to Verilog by its own tools, as an observer of SDRAM pins.

#include <cstdint>
#include <memory>

#include "Vtimings.h"
#include "verilated.h"

struct Checker {
    VerilatedContext context;
    Vtimings dut{&context};
};

extern "C" {
void* checker_new() { return new Checker; }
void checker_delete(Checker* c) { delete c; }
// Pins of one rising edge: cs, ras, cas, we (active high), bank, address.
void checker_clock(Checker* c, const uint32_t* pins) {
    c->dut.cs_n = !pins[0];
    c->dut.ras_n = !pins[1];
    c->dut.cas_n = !pins[2];
    c->dut.we_n = !pins[3];
    c->dut.bank = pins[4];
    c->dut.address = pins[5];
    c->dut.sys_clk = 0;
    c->dut.eval();
    c->dut.sys_clk = 1;
    c->dut.eval();
}
uint32_t checker_seen(Checker* c, int which) { return c->dut.seen[which]; }
}
