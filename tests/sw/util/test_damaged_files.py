"""Every reader of files takes a damaged file or refuses it: no other error, no hang, no memory."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillnet.sw.contract.config import EngineConfig
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.importers.keras import child
from stillnet.sw.importers.keras.file import read_keras
from stillnet.sw.importers.load import load_model
from stillnet.sw.importers.pt_file import read_objects
from stillnet.sw.packing.packer import load_image
from stillnet.sw.util.recordings import load_array
from tests.support import damage
from tests.support.damage import valid_files

FEW = {"keras": 20, "h5": 15, "whole keras": 15}
"""Examples of the kinds that are slow to read; 40 of the others."""

NAMES = list(valid_files())
NUMBER = st.floats(0, 1, exclude_max=True, allow_subnormal=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize("kind", NAMES)
def test_valid_files_are_read(folder, kind) -> None:
    assert damage.read(folder, *valid_files()[kind])


def check(folder: Path, kind: str, count: int) -> None:
    suffix, data = valid_files()[kind]

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False), st.lists(NUMBER, max_size=12))
    def survives(random, first) -> None:
        def numbers():
            yield from first
            while True:
                yield random.random()

        damage.read(folder, suffix, damage.damaged(kind, data, numbers()))

    survives()


@pytest.mark.parametrize("kind", NAMES)
def test_damaged_files_are_taken_or_refused(folder, kind) -> None:
    check(folder, kind, FEW.get(kind, 40))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_many_damaged_files_are_taken_or_refused(folder, kind) -> None:
    check(folder, kind, 300 if kind in FEW else 3000)


@pytest.mark.parametrize("kind", [n for n in NAMES if n != "config"])
def test_every_end_may_be_missing(folder, kind) -> None:
    suffix, data = valid_files()[kind]
    for size in np.linspace(0, len(data) - 1, 12).astype(int):
        if kind == "onnx" and size > len(data) - 30:
            continue  # what is missing there has a default
        assert not damage.read(folder, suffix, data[:size]), size


# -- what was found -------------------------------------------------------------------------------


def npy(header: str, data: bytes = bytes(48)) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), ",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': (2, 3)}",
        "(" * 3000,
        "\x00\x00",
    ],
)
def test_headers_of_recordings(tmp_path, header) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(header))
    with pytest.raises(StillnetError, match="is cut off or damaged"):
        load_array(path)


def test_a_child_that_hangs_is_stopped(tmp_path, monkeypatch) -> None:
    """And the next file is read by another one."""
    kept = tmp_path / "x.h5"
    kept.write_bytes(valid_files()["h5"][1])
    assert load_model(kept).outputs == 2
    monkeypatch.setattr(child, "LIMIT", 0.0)
    with pytest.raises(StillnetError, match="gives no answer within 0 seconds, or crashes"):
        read_keras(kept)
    monkeypatch.setattr(child, "LIMIT", 60.0)
    assert load_model(kept).outputs == 2


def test_a_tensor_that_repeats_its_elements_takes_no_memory() -> None:
    """A stride of zero makes a large tensor of one element."""
    from stillnet.sw.importers.pt_file import Storage, Tensor

    storage = Storage("Float", "0", 4, data=lambda: np.zeros(4, np.float32))
    assert Tensor(storage, 0, (3, 4), (0, 1)).array().shape == (3, 4)
    for shape, strides in (((1 << 20, 1 << 10), (0, 0)), ((5,), (1,)), ((2, 2), (-1, 1))):
        with pytest.raises(ValueError, match="lies outside of its data"):
            Tensor(storage, 0, shape, strides).array()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}(U\x01a" + b"\x86" * 2 + b".",  # tuples of an empty stack
        b"\x80\x02})" + b"2\x86" * 64 + b"K\x01s.",  # a key that takes for ever to hash
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # the memory at a far place
        b"\x80\x02X\xff\xff\xff\x7fa.",  # text that is not there
        b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",  # lists in lists
    ],
)
def test_pickles_that_are_traps(tmp_path, data) -> None:
    head = damage.torch_bytes({})
    assert b"data.pkl" in head
    archive = damage.zipped({"net/data.pkl": data, "net/byteorder": b"little"})
    with pytest.raises(StillnetError):
        path = tmp_path / "net.pt"
        path.write_bytes(archive)
        load_model(path)
    assert isinstance(read_objects(tmp_path / "net.pt", head), dict)


@pytest.mark.parametrize("value", ["[0.0, 1]", '"fast"', "true", "nan", "17", "{}"])
def test_a_clock_that_is_no_number_in_a_configuration(tmp_path, value) -> None:
    path = tmp_path / "engine.toml"
    path.write_text(f"bus_clock = {value}\n")
    with pytest.raises(StillnetError, match="bus_clock must be a number from 0 to 16, not"):
        EngineConfig.load(path)


@pytest.mark.parametrize("config", ["null", "[]", "3", '"x"'])
def test_a_keras_model_without_its_layers(tmp_path, config) -> None:
    text = f'{{"class_name": "Functional", "config": {config}}}'
    with zipfile.ZipFile(io.BytesIO(valid_files()["whole keras"][1])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "x.keras"
    path.write_bytes(damage.zipped({**members, "config.json": text.encode()}))
    with pytest.raises(StillnetError, match="the Functional model has no description of its lay"):
        load_model(path)


def test_notes_of_an_image_are_complete() -> None:
    data = valid_files()["image"][1]
    for old, new in (
        (b'"inputs"', b'"outputs'),
        (b'"config"', b'"c\xff\xfeig"'),
        (b'"cell"', b'"c"'),
    ):
        with pytest.raises(StillnetError, match="pack it again|has no key"):
            load_image(damage.signed(data.replace(old, new)))
