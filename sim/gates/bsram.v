// Block RAM of a Gowin (UG285, "Gowin BSRAM & SSRAM"): 1,024 words of 18 bits with two ports. Both
// may be one port of 36 bits. Bits 8 and 17 of a word are there in widths of 9 and more only, so an
// address counts bits without them. A port of 18 bits writes the halves that AD[1:0] names, one of 36
// bits those of AD[3:0].
module STILLNET_BSRAM #(
    parameter WIDTH_A = 18, WIDTH_B = 18,  // 1, 2, 4, 9, 18, 36
    parameter MODE_A = 0, MODE_B = 0,      // what a write leaves at the output: 0 nothing, 1 the new word, 2 the old
    parameter OUTREG_A = 0, OUTREG_B = 0,
    parameter SELECT_A = 0, SELECT_B = 0,
    parameter ASYNC = 1,
    parameter [18431:0] WORDS = 0
) (
    input CLKA, CEA, OCEA, WREA, RESETA, CLKB, CEB, OCEB, WREB, RESETB,
    input [13:0] ADA, ADB, input [2:0] BLKSELA, BLKSELB, input [35:0] DI, output [35:0] DO
);
    reg [17:0] words [0:1023] /* verilator public_flat_rd */;
    integer i;
    initial for (i = 0; i < 1024; i = i + 1) words[i] = WORDS[18 * i +: 18];

    reg [35:0] qa = 0, ra = 0;
    reg [17:0] qb = 0, rb = 0;
    wire ona = CEA && BLKSELA == SELECT_A, onb = CEB && BLKSELB == SELECT_B;

    // The place of a narrow port's lowest bit in its word.
    function [4:0] place(input [13:0] address);
        place = {1'b0, address[3:0]} + (address[3] ? 5'd1 : 5'd0);
    endfunction
    function [17:0] mask(input integer width, input [13:0] address);
        case (width)
            1: mask = 18'd1 << place(address);
            2: mask = 18'd3 << place({address[13:1], 1'b0});
            4: mask = 18'd15 << place({address[13:2], 2'b0});
            9: mask = address[3] ? 18'h3FE00 : 18'h1FF;
            default: mask = {{9{address[1]}}, {9{address[0]}}};
        endcase
    endfunction
    function [4:0] shift(input integer width, input [13:0] address);
        case (width)
            1: shift = place(address);
            2: shift = place({address[13:1], 1'b0});
            4: shift = place({address[13:2], 2'b0});
            9: shift = address[3] ? 5'd9 : 5'd0;
            default: shift = 0;
        endcase
    endfunction
    function [17:0] cut(input integer width, input [17:0] word);
        cut = width >= 18 ? word : word & ((18'd1 << width) - 18'd1);
    endfunction

    // -- port A, which in 36 bits has the data pins of both -------------------------------------
    wire [9:0] wa = WIDTH_A == 36 ? {ADA[13:5], 1'b0} : ADA[13:4];
    wire [17:0] ma = mask(WIDTH_A, ADA);
    wire [17:0] high = {{9{ADA[3]}}, {9{ADA[2]}}};
    wire [17:0] da = DI[17:0] << shift(WIDTH_A, ADA);
    wire [17:0] na = (words[wa] & ~ma) | (da & ma);
    wire [17:0] nh = (words[wa | 10'd1] & ~high) | (DI[35:18] & high);
    // -- port B -----------------------------------------------------------------------------------
    wire [9:0] wb = WIDTH_B == 36 ? {ADB[13:5], 1'b0} : ADB[13:4];
    wire [17:0] mb = mask(WIDTH_B, ADB);
    wire [17:0] db = DI[35:18] << shift(WIDTH_B, ADB);
    wire [17:0] nb = (words[wb] & ~mb) | (db & mb);
    reg [35:0] q36 = 0;

    always @(posedge CLKA) if (ona) begin
        if (WREA) begin
            words[wa] <= na;
            if (WIDTH_A == 36) words[wa | 10'd1] <= nh;
        end
        if (!WREA || MODE_A == 2) qa <= {words[wa | 10'd1], cut(WIDTH_A, words[wa] >> shift(WIDTH_A, ADA))};
        else if (MODE_A == 1) qa <= {nh, cut(WIDTH_A, na >> shift(WIDTH_A, ADA))};
        if (RESETA && !ASYNC) qa <= 0;
    end
    always @(posedge CLKB) if (onb) begin
        if (WREB && WIDTH_B != 36) words[wb] <= nb;
        if (!WREB || MODE_B == 2) qb <= cut(WIDTH_B, words[wb] >> shift(WIDTH_B, ADB));
        else if (MODE_B == 1) qb <= cut(WIDTH_B, nb >> shift(WIDTH_B, ADB));
        q36 <= {words[wb | 10'd1], words[wb]};  // a port of 36 bits here only reads, whatever WREB is
        if (RESETB && !ASYNC) begin qb <= 0; q36 <= 0; end
    end
    always @(posedge CLKA) if (OCEA) ra <= qa;
    always @(posedge CLKB) if (OCEB) rb <= qb;
    // In 36 bits on both sides port A writes and port B reads.
    assign DO = WIDTH_B == 36 ? q36 : {OUTREG_B != 0 ? rb : qb, OUTREG_A != 0 ? ra[17:0] : qa[17:0]};
endmodule

// Two bits a cycle (UG289, "Gowin Programmable IO", ODDR): both are taken at the rising edge, D0 leaves
// a cycle later while the clock is high, D1 while it is low.
module STILLNET_ODDR(input CLK, D0, D1, output Q);
    reg r0 = 0, r1 = 0;
    always @(posedge CLK) begin
        r0 <= D0;
        r1 <= D1;
    end
    assign Q = CLK ? r0 : r1;
endmodule
