// Cells at the edge of an ECP5, and its clock gate, as far as boards use them. Pads and clocks are
// split into one-way wires, so that a simulator without tristate lines will do.

// A pad: PAD_I is what the board drives, PAD_O what the FPGA does, with PAD_E.
module STILLNET_PAD #(parameter DIR = "INPUT") (
    input I, T, PAD_I, output O, PAD_O, PAD_E
);
    assign PAD_O = I;
    assign PAD_E = DIR != "INPUT" && !T;
    assign O = PAD_E ? I : PAD_I;
endmodule

// Clock gate (FPGA-TN-02200, "ECP5 and ECP5-5G sysCLOCK PLL/DLL Design and Usage Guide", DCCA): the
// enable is taken while the clock is low, so that no pulse is cut.
module DCCA(input CLKI, CE, output CLKO);
    reg open = 0;
    always @(negedge CLKI) open <= CE;
    assign CLKO = CLKI & open;
endmodule

// Two bits a cycle (FPGA-TN-02035, "ECP5 and ECP5-5G High-Speed I/O Interface", ODDRX1F): both are
// taken at the rising edge; D0 leaves while the clock is high, D1 while it is low.
module ODDRX1F(input SCLK, RST, D0, D1, output Q);
    parameter GSR = "ENABLED";
    reg r0 = 0, r1 = 0;
    always @(posedge SCLK) begin
        r0 <= D0;
        r1 <= D1;
    end
    assign Q = SCLK ? r0 : r1;
endmodule
