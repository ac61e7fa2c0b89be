"""Training and test of a GRU with the package ``opendpd`` alone; a process of its own, because the
package's modules have names such as ``utils`` and ``main``.

    python examples/reproduce/opendpd_baseline.py FOLDER UNITS EPOCHS

Writes the package's files below FOLDER and ``baseline.json`` with the path of the weights and the
error on the test recordings, by the package's own measure.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path


def main() -> None:
    """The command line."""
    folder, units, epochs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    import opendpd
    import torch
    from models import CoreModel
    from modules.data_collector import load_dataset
    from utils.metrics import NMSE

    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        made = opendpd.train_pa(
            dataset_name="APA_200MHz",
            PA_backbone="gru",
            PA_hidden_size=units,
            n_epochs=epochs,
            batch_size=64,
            frame_length=100,
            frame_stride=5,
            seed=0,
            eval_test=0,
        )
        weights = Path(made["model_path"]).resolve()
    net = CoreModel(2, units, 1, "gru")
    net.load_state_dict(torch.load(weights, weights_only=True))
    data = load_dataset(dataset_name="APA_200MHz")
    with torch.inference_mode():
        y = net.eval()(torch.tensor(data[4][None], dtype=torch.float32)).numpy()
    found = {
        "weights": str(weights),
        "nmse": float(NMSE(y, data[5][None])),
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    (folder / "baseline.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
