"""Gowin: short sums from LUTs instead of carry chains.

A chain begins in a slice of its own, with a cell that starts the carry, and often ends with one
that lets it out; LUTs and adders share no pair of places. So a sum of few bits is smaller from
LUTs. Yosys has no option for that: this is the first of its maps.
"""

__all__ = ["ADDERS", "ADDERS_FILE", "SHORT"]

ADDERS_FILE = "adders.v"

SHORT = 4
"""Bits of the longest sum that is made from LUTs."""

ADDERS = f"""// Sums of up to {SHORT} bits, for Yosys's techmap.
(* techmap_celltype = "$alu" *)
module short_sum (A, B, CI, BI, X, Y, CO);
    parameter A_SIGNED = 0;
    parameter B_SIGNED = 0;
    parameter A_WIDTH = 1;
    parameter B_WIDTH = 1;
    parameter Y_WIDTH = 1;
    (* force_downto *) input [A_WIDTH-1:0] A;
    (* force_downto *) input [B_WIDTH-1:0] B;
    input CI, BI;
    (* force_downto *) output [Y_WIDTH-1:0] X, Y, CO;

    wire _TECHMAP_FAIL_ = Y_WIDTH > {SHORT};

    (* force_downto *) wire [Y_WIDTH-1:0] a, extended;
    \\$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) whole_a (.A(A), .Y(a));
    \\$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH))
        whole_b (.A(B), .Y(extended));
    wire [Y_WIDTH-1:0] b = BI ? ~extended : extended;
    wire [Y_WIDTH:0] carry;
    assign carry[0] = CI;
    genvar i;
    generate
        for (i = 0; i < Y_WIDTH; i = i + 1) begin : bits
            assign X[i] = a[i] ^ b[i];
            assign Y[i] = X[i] ^ carry[i];
            assign carry[i + 1] = (a[i] & b[i]) | (carry[i] & (a[i] | b[i]));
            assign CO[i] = carry[i + 1];
        end
    endgenerate
endmodule
"""
