// ECP5 multiplier of 18 x 18 bits, from the vendor's text: Lattice FPGA-TN-02205, "ECP5 and ECP5-5G
// sysDSP Usage Guide". Registers at the inputs, in the middle and at the output, each in use with a
// clock. Cascades, resets and operands whose sign changes are not modelled: stillnet.sim.gates
// refuses a netlist that uses them.
module MULT18X18D #(
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTA_CE = "CE0", REG_INPUTA_RST = "RST0",
    parameter REG_INPUTB_CLK = "NONE", REG_INPUTB_CE = "CE0", REG_INPUTB_RST = "RST0",
    parameter REG_INPUTC_CLK = "NONE", REG_INPUTC_CE = "CE0", REG_INPUTC_RST = "RST0",
    parameter REG_PIPELINE_CLK = "NONE", REG_PIPELINE_CE = "CE0", REG_PIPELINE_RST = "RST0",
    parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0",
    parameter CLK0_DIV = "ENABLED", CLK1_DIV = "ENABLED", CLK2_DIV = "ENABLED",
    parameter CLK3_DIV = "ENABLED", HIGHSPEED_CLK = "NONE", GSR = "ENABLED",
    parameter CAS_MATCH_REG = "FALSE", SOURCEB_MODE = "B_SHIFT", MULT_BYPASS = "DISABLED",
    parameter RESETMODE = "SYNC"
) (
    input A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, A10, A11, A12, A13, A14, A15, A16, A17,
    input B0, B1, B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13, B14, B15, B16, B17,
    input C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15, C16, C17,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
    input CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
    output P0, P1, P2, P3, P4, P5, P6, P7, P8, P9, P10, P11, P12, P13, P14, P15, P16, P17,
        P18, P19, P20, P21, P22, P23, P24, P25, P26, P27, P28, P29, P30, P31, P32, P33,
        P34, P35,
    output SIGNEDP
);
    wire [17:0] pins_a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1,
        A0};
    wire [17:0] pins_b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1,
        B0};

    wire signed [18:0] a, b;
    wire signed [37:0] full = a * b;
    wire signed [37:0] middle, product;
    MULT18X18D_stage #(19, REG_INPUTA_CLK, REG_INPUTA_CE) input_a (
        CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, {SIGNEDA & A17, pins_a}, a);
    MULT18X18D_stage #(19, REG_INPUTB_CLK, REG_INPUTB_CE) input_b (
        CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, {SIGNEDB & B17, pins_b}, b);
    MULT18X18D_stage #(38, REG_PIPELINE_CLK, REG_PIPELINE_CE) pipeline (
        CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, full, middle);
    MULT18X18D_stage #(38, REG_OUTPUT_CLK, REG_OUTPUT_CE) out (
        CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, middle, product);
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21,
        P20, P19, P18, P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5,
        P4, P3, P2, P1, P0} = product[35:0];
    assign SIGNEDP = SIGNEDA | SIGNEDB;
endmodule

// A register with one of four clocks and one of four enables, or none.
module MULT18X18D_stage #(parameter WIDTH = 1, CLOCK = "NONE", ENABLE = "CE0") (
    input CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3,
    input [WIDTH-1:0] d, output [WIDTH-1:0] q
);
    generate
        if (CLOCK == "NONE") begin : bypass
            assign q = d;
        end else begin : register
            wire clock = CLOCK == "CLK3" ? CLK3 : CLOCK == "CLK2" ? CLK2 : CLOCK == "CLK1" ? CLK1
                         : CLK0;
            wire enable = ENABLE == "CE3" ? CE3 : ENABLE == "CE2" ? CE2 : ENABLE == "CE1" ? CE1
                          : CE0;
            reg [WIDTH-1:0] value = 0;
            always @(posedge clock) if (enable) value <= d;
            assign q = value;
        end
    endgenerate
endmodule
