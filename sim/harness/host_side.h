// What the host's side of a board asks, the same for a design and for its gates. Included behind
// `struct Board`, which has the memory, the device under test, and the bytes on their way.

extern "C" {

// What the model of the SDRAM counted.
uint64_t board_sdram(Board* b, int which) { return stillnet::sdram_count(b->memory, which); }
uint32_t board_lamps(Board* b) { return b->dut->lamps; }
void board_push(Board* b, const uint8_t* data, uint64_t size) {
    b->to_board.insert(b->to_board.end(), data, data + size);
}
uint64_t board_waiting(Board* b) { return b->to_board.size(); }
// Cycles since a byte last moved.
uint64_t board_quiet(Board* b) { return b->cycle - b->activity; }
uint64_t board_pull(Board* b, uint8_t* data, uint64_t size) {
    uint64_t count = 0;
    while (count < size && !b->from_board.empty()) {
        data[count++] = b->from_board.front();
        b->from_board.pop_front();
    }
    b->frame_seen = false;
    return count;
}

}  // extern "C"
