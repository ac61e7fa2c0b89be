"""What is finished stays finished: results of a compression in a folder, stage by stage.

A folder belongs to one model, one set of recordings, one set of options and one version of the
methods, by their digest; for anything else it is refused. Budgets are no part of it: weights that
are solved before thresholds are searched serve all of them. Files are complete or absent, so that a
run may be killed any time.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model
from stillnet.sw.quantization.layerwise import Compressed, LayerWork
from stillnet.sw.util.files import write_atomically

__all__ = ["VERSION", "Checkpoint", "digest"]

VERSION = 3
"""Of the methods. Raised with every change of this folder, of the formats' choice or of the cost
model that gives other results for the same data: stages that older code kept are then refused."""


def digest(model: Model, x: np.ndarray, options: dict[str, Any]) -> str:
    """SHA-256 of everything that decides the result, ``VERSION`` included."""
    facts = {"version": VERSION, **options}
    hash_ = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for layer in model.layers:
        hash_.update(f"{layer.name} {layer.cell} {layer.units}".encode())
        for m in layer.matrices:
            hash_.update(f"{m.source} {m.gates}".encode())
            hash_.update(np.ascontiguousarray(m.weight).tobytes())
        for values in (layer.bias, layer.initial, layer.parameters):
            for name in sorted(values):
                hash_.update(np.ascontiguousarray(values[name]).tobytes())
    hash_.update(np.ascontiguousarray(x).tobytes())
    return hash_.hexdigest()


class Checkpoint:
    """A folder of finished stages; without a folder, nothing is kept.

    Parameters
    ----------
    folder : Path or None
    key : str
        The digest that the folder must belong to.

    Raises
    ------
    StillnetError
        Where the folder belongs to another run.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        owner = folder / "run.json"
        if owner.is_file():
            try:
                found = json.loads(owner.read_text()).get("digest")
            except (json.JSONDecodeError, AttributeError):
                found = None
            if found != key:
                raise StillnetError(
                    f"'{folder}' holds another compression (of another model, other recordings, "
                    "other options or by another version of stillnet); remove it, or give another "
                    "folder with --resume"
                )
        else:
            write_atomically(owner, json.dumps({"digest": key}) + "\n")

    def save(self, stage: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Keeps one stage."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        np.savez(buffer, facts=text, **arrays)  # type: ignore[arg-type]
        write_atomically(self.folder / f"{stage}.npz", buffer.getvalue())

    def load(self, stage: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """What :meth:`save` kept, or None."""
        if self.folder is None:
            return None
        path = self.folder / f"{stage}.npz"
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            facts = json.loads(arrays.pop("facts").tobytes())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StillnetError(
                f"'{path}' is damaged ({error}); remove it, and the stage is done again"
            ) from error
        return arrays, facts

    def save_layer(self, stage: str, index: int, work: LayerWork) -> None:
        """Keeps a compressed layer."""
        arrays, facts = {}, {}
        for (_, place), c in work.items():
            for name in ("integers", "step", "ratio", "bias", "kept"):
                arrays[f"{place}-{name}"] = getattr(c, name)
            facts[str(place)] = [c.error, c.nearest_error]
        self.save(f"{stage}-layer{index:02d}", arrays, facts)

    def load_layer(self, stage: str, index: int) -> LayerWork | None:
        """What :meth:`save_layer` kept, or None."""
        found = self.load(f"{stage}-layer{index:02d}")
        if found is None:
            return None
        arrays, facts = found
        return {
            (index, int(place)): Compressed(
                arrays[f"{place}-integers"],
                arrays[f"{place}-step"],
                arrays[f"{place}-ratio"],
                arrays[f"{place}-bias"],
                arrays[f"{place}-kept"],
                error,
                nearest,
            )
            for place, (error, nearest) in facts.items()
        }

    def load_layers(self, stage: str, count: int) -> LayerWork:
        """All compressed layers of a stage up to the first one that is missing."""
        work: LayerWork = {}
        for index in range(count):
            found = self.load_layer(stage, index)
            if found is None:
                break
            work.update(found)
        return work
