"""NSNet2 and its recordings as files, for the commands: quantize, compress, sweep, run.

    .venv/bin/python examples/nsnet2.py build/nsnet2

writes ``nsnet2.onnx``, a folder ``calibration`` of three recordings of diverse scenes, and a folder
``test`` of two: 12 s of other speech in pink noise, and in a machine's, of a kind that calibration
does not have. Each is the log spectrum that the model takes, (steps, 161), a step every 10 ms.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np

from stillnet.sim.audio.recordings import calibration_recordings, nsnet2_path, test_mix
from stillnet.sim.audio.signals import features, stft
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.util.files import write_atomically

CLIPS, SECONDS = 3, 30.0
"""What `stillnet bench nsnet2` calibrates on too."""

NOISES = ("pink", "machine")


def write(folder: Path) -> list[Path]:
    """Writes everything; returns the files.

    Parameters
    ----------
    folder : Path
        Made if need be.
    """
    recordings = {
        f"calibration/{k}.npy": x for k, x in enumerate(calibration_recordings(CLIPS, SECONDS))
    }
    recordings |= {f"test/{n}.npy": features(stft(test_mix(noise=n)[0])) for n in NOISES}
    model = folder / "nsnet2.onnx"
    written = [model, *(folder / name for name in recordings)]
    for path in written:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(model, nsnet2_path().read_bytes())
    for name, x in recordings.items():
        buffer = io.BytesIO()
        np.save(buffer, x, allow_pickle=False)
        write_atomically(folder / name, buffer.getvalue())
    return written


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where to, for instance build/nsnet2")
    try:
        for path in write(parser.parse_args().folder):
            print(path)
    except OSError as error:
        print(
            f"nsnet2.py: error: cannot write '{error.filename}': {error.strerror}; choose "
            "another folder",
            file=sys.stderr,
        )
        return 2
    except StillnetError as error:
        print(f"nsnet2.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
