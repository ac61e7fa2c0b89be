"""The stages that the cost model adds up are those that the hardware has."""

from __future__ import annotations

import pytest

from stillnet.hw.cell import rescale
from stillnet.hw.events import event_encoder
from stillnet.hw.fetch import column_fetcher
from stillnet.hw.lanes import lanes, weight_decoder
from stillnet.sw.contract import stages

BLOCKS = {
    "LOOKUP_CYCLES": event_encoder,
    "ENCODE_CYCLES": event_encoder,
    "LIST_READ_LATENCY": event_encoder,
    "YIELD_WORDS": column_fetcher,
    "REQUESTS": column_fetcher,
    "DECODE_CYCLES": weight_decoder,
    "COMMIT_CYCLES": lanes,
    "READ_LATENCY": lanes,
    "RESCALE_LATENCY": rescale,
    "ROW_SCALE_LATENCY": rescale,
}


@pytest.mark.parametrize("name", stages.__all__)
def test_a_stage_is_what_its_block_has(name: str) -> None:
    assert getattr(stages, name) == getattr(BLOCKS[name], name)
