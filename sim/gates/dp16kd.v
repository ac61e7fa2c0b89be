// ECP5 block RAM, from the vendor's text: Lattice FPGA-TN-02204 (before: TN1264), "ECP5 and ECP5-5G
// Memory Usage Guide". Two ports of 1, 2, 4, 9 or 18 bits each, or one that writes 36 bits at A and
// one that reads at B. Parity bits are in use from 9 bits on.
//
// * A write takes the data at the rising edge where CE and WE are high; bytes of 18 or 36 bits have
//   their enables in the low bits of the address, which words of that width do not need.
// * What a port shows in a cycle of its own write: NORMAL, nothing new; WRITETHROUGH, the new word;
//   READBEFOREWRITE, the old one.
// * A register behind the array is in use with REGMODE "OUTREG". It follows OCE alone, and not CE.
// * Initial content: each INITVAL has 16 words of 18 bits, 20 bits apart.
//
// Resets and chip selects are not modelled: stillnet.sim.gates refuses a netlist that uses them.
module DP16KD #(
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG",
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL",
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED",
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000",
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB",
    parameter [319:0]
    INITVAL_00 = 320'b0, INITVAL_01 = 320'b0, INITVAL_02 = 320'b0, INITVAL_03 = 320'b0,
    INITVAL_04 = 320'b0, INITVAL_05 = 320'b0, INITVAL_06 = 320'b0, INITVAL_07 = 320'b0,
    INITVAL_08 = 320'b0, INITVAL_09 = 320'b0, INITVAL_0A = 320'b0, INITVAL_0B = 320'b0,
    INITVAL_0C = 320'b0, INITVAL_0D = 320'b0, INITVAL_0E = 320'b0, INITVAL_0F = 320'b0,
    INITVAL_10 = 320'b0, INITVAL_11 = 320'b0, INITVAL_12 = 320'b0, INITVAL_13 = 320'b0,
    INITVAL_14 = 320'b0, INITVAL_15 = 320'b0, INITVAL_16 = 320'b0, INITVAL_17 = 320'b0,
    INITVAL_18 = 320'b0, INITVAL_19 = 320'b0, INITVAL_1A = 320'b0, INITVAL_1B = 320'b0,
    INITVAL_1C = 320'b0, INITVAL_1D = 320'b0, INITVAL_1E = 320'b0, INITVAL_1F = 320'b0,
    INITVAL_20 = 320'b0, INITVAL_21 = 320'b0, INITVAL_22 = 320'b0, INITVAL_23 = 320'b0,
    INITVAL_24 = 320'b0, INITVAL_25 = 320'b0, INITVAL_26 = 320'b0, INITVAL_27 = 320'b0,
    INITVAL_28 = 320'b0, INITVAL_29 = 320'b0, INITVAL_2A = 320'b0, INITVAL_2B = 320'b0,
    INITVAL_2C = 320'b0, INITVAL_2D = 320'b0, INITVAL_2E = 320'b0, INITVAL_2F = 320'b0,
    INITVAL_30 = 320'b0, INITVAL_31 = 320'b0, INITVAL_32 = 320'b0, INITVAL_33 = 320'b0,
    INITVAL_34 = 320'b0, INITVAL_35 = 320'b0, INITVAL_36 = 320'b0, INITVAL_37 = 320'b0,
    INITVAL_38 = 320'b0, INITVAL_39 = 320'b0, INITVAL_3A = 320'b0, INITVAL_3B = 320'b0,
    INITVAL_3C = 320'b0, INITVAL_3D = 320'b0, INITVAL_3E = 320'b0, INITVAL_3F = 320'b0
) (
    input DIA0, DIA1, DIA2, DIA3, DIA4, DIA5, DIA6, DIA7, DIA8, DIA9, DIA10, DIA11, DIA12,
        DIA13, DIA14, DIA15, DIA16, DIA17,
    input ADA0, ADA1, ADA2, ADA3, ADA4, ADA5, ADA6, ADA7, ADA8, ADA9, ADA10, ADA11, ADA12,
        ADA13,
    input CEA, OCEA, CLKA, WEA, RSTA, CSA0, CSA1, CSA2,
    output DOA0, DOA1, DOA2, DOA3, DOA4, DOA5, DOA6, DOA7, DOA8, DOA9, DOA10, DOA11, DOA12,
        DOA13, DOA14, DOA15, DOA16, DOA17,
    input DIB0, DIB1, DIB2, DIB3, DIB4, DIB5, DIB6, DIB7, DIB8, DIB9, DIB10, DIB11, DIB12,
        DIB13, DIB14, DIB15, DIB16, DIB17,
    input ADB0, ADB1, ADB2, ADB3, ADB4, ADB5, ADB6, ADB7, ADB8, ADB9, ADB10, ADB11, ADB12,
        ADB13,
    input CEB, OCEB, CLKB, WEB, RSTB, CSB0, CSB1, CSB2,
    output DOB0, DOB1, DOB2, DOB3, DOB4, DOB5, DOB6, DOB7, DOB8, DOB9, DOB10, DOB11, DOB12,
        DOB13, DOB14, DOB15, DOB16, DOB17
);
    wire [17:0] dia = {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7,
        DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2,
        ADA1, ADA0};
    wire [17:0] dib = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7,
        DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2,
        ADB1, ADB0};

    localparam WIDE = DATA_WIDTH_A == 36;
    localparam [64 * 320 - 1:0] INIT = {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39,
        INITVAL_38, INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32,
        INITVAL_31, INITVAL_30, INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B,
        INITVAL_2A, INITVAL_29, INITVAL_28, INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24,
        INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20, INITVAL_1F, INITVAL_1E, INITVAL_1D,
        INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18, INITVAL_17, INITVAL_16,
        INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10, INITVAL_0F,
        INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01,
        INITVAL_00};

    reg [17:0] mem [0:1023];
    integer i;
    initial for (i = 0; i < 1024; i = i + 1) mem[i] = INIT[20 * i +: 18];

    // Bits of a row of 18 that a narrow write covers, and its data in their place.
    function [17:0] places(input integer width, input [13:0] address);
        case (width)
            36: places = {{9{address[1]}}, {9{address[0]}}};
            18: places = {{9{address[1]}}, {9{address[0]}}};
            9: places = address[3] ? 18'h3FE00 : 18'h001FF;
            4: places = 18'hF << ((address[3] ? 9 : 0) + 4 * address[2]);
            2: places = 18'h3 << ((address[3] ? 9 : 0) + 2 * address[2:1]);
            default: places = 18'h1 << ((address[3] ? 9 : 0) + address[2:0]);
        endcase
    endfunction
    function [17:0] copies(input integer width, input [17:0] data);
        case (width)
            36, 18: copies = data;
            9: copies = {data[8:0], data[8:0]};
            4: copies = {1'b0, {2{data[3:0]}}, 1'b0, {2{data[3:0]}}};
            2: copies = {1'b0, {4{data[1:0]}}, 1'b0, {4{data[1:0]}}};
            default: copies = {1'b0, {8{data[0]}}, 1'b0, {8{data[0]}}};
        endcase
    endfunction
    // A word of a row, at the low bits.
    function [17:0] word(input integer width, input [13:0] address, input [17:0] row);
        reg [8:0] half;
        begin
            half = address[3] ? row[17:9] : row[8:0];
            case (width)
                36, 18: word = row;
                9: word = {9'b0, half};
                4: word = {14'b0, half[4 * address[2] +: 4]};
                2: word = {16'b0, half[2 * address[2:1] +: 2]};
                default: word = {17'b0, half[address[2:0]]};
            endcase
        end
    endfunction

    wire clock_a = CLKAMUX == "INV" ? ~CLKA : CLKA;
    wire [9:0] row_a = DATA_WIDTH_A == 36 ? {ada[13:5], 1'b0} : ada[13:4];
    wire [17:0] mask_a = places(DATA_WIDTH_A, ada), new_a = copies(DATA_WIDTH_A, dia);
    wire [17:0] now_a = mem[row_a];
    wire [17:0] put_a = (now_a & ~mask_a) | (new_a & mask_a);
    wire clock_b = CLKBMUX == "INV" ? ~CLKB : CLKB;
    wire [9:0] row_b = DATA_WIDTH_B == 36 ? {adb[13:5], 1'b0} : adb[13:4];
    wire [17:0] mask_b = places(DATA_WIDTH_B, adb), new_b = copies(DATA_WIDTH_B, dib);
    wire [17:0] now_b = mem[row_b];
    wire [17:0] put_b = (now_b & ~mask_b) | (new_b & mask_b);
    wire [17:0] mask_high = {{9{ada[3]}}, {9{ada[2]}}}, now_high = mem[{ada[13:5], 1'b1}];

    reg [17:0] array_a = 0, array_b = 0, low = 0, register_a = 0, register_b = 0, low_register = 0;
    always @(posedge clock_a) begin
        if (CEA & WEA) begin
            mem[row_a] <= put_a;
            if (WIDE) mem[{ada[13:5], 1'b1}] <= (now_high & ~mask_high) | (dib & mask_high);
        end
        if (CEA & ~WEA) array_a <= word(DATA_WIDTH_A, ada, now_a);
        else if (CEA & WRITEMODE_A == "READBEFOREWRITE") array_a <= word(DATA_WIDTH_A, ada, now_a);
        else if (CEA & WRITEMODE_A == "WRITETHROUGH") array_a <= word(DATA_WIDTH_A, ada, put_a);
        if (OCEA) register_a <= array_a;
    end
    // A port of 36 bits has its low half at the outputs of A, and the clock of B.
    always @(posedge clock_b) begin
        if (CEB & WEB & !WIDE) mem[row_b] <= put_b;
        if (CEB & (~WEB | WIDE)) begin
            array_b <= DATA_WIDTH_B == 36 ? mem[{adb[13:5], 1'b1}] : word(DATA_WIDTH_B, adb, now_b);
            low <= now_b;
        end else if (CEB & WRITEMODE_B == "READBEFOREWRITE")
            array_b <= word(DATA_WIDTH_B, adb, now_b);
        else if (CEB & WRITEMODE_B == "WRITETHROUGH") array_b <= word(DATA_WIDTH_B, adb, put_b);
        if (OCEB) begin
            register_b <= array_b;
            low_register <= low;
        end
    end
    wire [17:0] outa = DATA_WIDTH_B == 36 ? (REGMODE_B == "OUTREG" ? low_register : low)
                       : REGMODE_A == "OUTREG" ? register_a : array_a;
    wire [17:0] outb = REGMODE_B == "OUTREG" ? register_b : array_b;
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7,
        DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = outa;
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7,
        DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} = outb;
endmodule
