"""From spelling to sound: the g2p-en network as two streaming networks, encoder and decoder.

    python examples/g2p.py accelerator hardware silence

The encoder reads the letters of a word, one a step, and then the token that ends it. Its hidden
state is what it knows of the word; the decoder starts from that state and says one phoneme a step,
hearing the one it said before. Both take one-hot tokens: the embedding is folded into the input
matrix of the GRU (``w_ih @ embedding.T``), so that a token is one event and fetches one column.

Facts of the network (read from the data file and from g2p.py of the package; none of its code is
used): PyTorch gate order r, z, n; a word ends with the token ``</s>``; the decoder starts with
``<s>`` and an answer ends with ``</s>`` or after 20 phonemes; phonemes are those of the CMU
dictionary, in its order, a digit after a vowel is its stress.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stillnet import EngineConfig, Network, Reference, quantize
from stillnet.sim.audio.recordings import INSTALL, g2p_path
from stillnet.sw.contract.cells import CELLS
from stillnet.sw.contract.errors import StillnetError
from stillnet.sw.model.model import Model

__all__ = [
    "END_LETTER",
    "END_PHONEME",
    "GRAPHEMES",
    "PHONEMES",
    "START_PHONEME",
    "FloatNetwork",
    "Stepper",
    "hand_over",
    "letters",
    "main",
    "models",
    "phonemes",
    "spell",
    "spell_float",
    "tokens",
]

GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
"""Tokens of the encoder, 29."""

_VOWELS = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"

PHONEMES = (
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    *sorted([v + s for v in _VOWELS.split() for s in "012"] + _CONSONANTS.split() + ["UW"]),
)
"""Tokens of the decoder, 74. ``UW`` comes with and without a digit."""

END_LETTER = GRAPHEMES.index("</s>")
START_PHONEME, END_PHONEME = PHONEMES.index("<s>"), PHONEMES.index("</s>")

WORDS = (
    "still network hardware silence speech memory column recurrent accelerator "
    "quick brown fox jumps over lazy dog stillnet amaranth yosys quantize"
)
"""Words that ``main`` speaks when none are given: common, technical, and never seen by anyone."""


class Stepper(Protocol):
    """A one-hot network that runs step by step: in floating point, in integers or in hardware."""

    def reset(self) -> None:
        """Back to the initial state."""

    def step(self, x: int) -> np.ndarray:
        """One token in, one output vector out."""

    def get_state(self) -> Mapping[Any, Any]:
        """State variables by (layer index, state name)."""

    def set_state(self, state: Mapping[Any, Any]) -> None:
        """Replaces the state variables named in ``state``."""


class FloatNetwork:
    """A float :class:`~stillnet.sw.model.model.Model` as a :class:`Stepper`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._state: dict[tuple[int, str], np.ndarray] = {}

    @property
    def model(self) -> Model:
        """The network that is run."""
        return self._model

    def reset(self) -> None:
        """Back to the initial state."""
        self._state = {}

    def step(self, x: int) -> np.ndarray:
        """One token in, one output vector out; array of float64, shape (outputs,)."""
        return self._model.run(np.array([x]), self._state)[0]

    def get_state(self) -> dict[tuple[int, str], np.ndarray]:
        """State variables by (layer index, state name), arrays of float64, shape (units,)."""
        state = {}
        for index, layer in enumerate(self._model.layers):
            for name in CELLS[layer.cell].state:
                start = layer.initial.get(name, np.zeros(layer.units))
                state[index, name] = np.array(self._state.get((index, name), start))
        return state

    def set_state(self, state: Mapping[tuple[int, str], np.ndarray]) -> None:
        """Replaces the state variables named in ``state``."""
        known = self.get_state()
        for (index, name), value in state.items():
            value = np.array(value, dtype=float)
            if (index, name) not in known or value.shape != known[index, name].shape:
                raise StillnetError(
                    f"state '{name}' of layer {index} with shape {value.shape} does not fit model "
                    f"'{self._model.name}', which has "
                    + ", ".join(f"{k[1]} of layer {k[0]} {v.shape}" for k, v in known.items())
                )
            self._state[index, name] = value
            if name == CELLS[self._model.layers[index].cell].output_state:
                # Model.run keeps the vector that the recurrence multiplies under the name "".
                self._state[index, ""] = value


# -- tokens ---------------------------------------------------------------------------------------


def letters(word: str) -> list[int]:
    """Tokens of a word, the end token last.

    Capitals and accents are dropped; an apostrophe or hyphen is the unknown letter.
    """
    plain = "".join(
        c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn"
    )
    for c in plain:
        if not ("a" <= c <= "z" or c in "'-"):
            raise StillnetError(f"word '{word}' holds {c!r}; write it with the letters a to z")
    if not any("a" <= c <= "z" for c in plain):
        raise StillnetError(f"word '{word}' has no letters; write it with the letters a to z")
    unknown = GRAPHEMES.index("<unk>")
    return [GRAPHEMES.index(c) if c in GRAPHEMES else unknown for c in plain] + [END_LETTER]


def phonemes(indices: Sequence[int]) -> list[str]:
    """Names of phoneme tokens."""
    for i in indices:
        if not 0 <= i < len(PHONEMES):
            raise StillnetError(f"phoneme {i} is outside 0 to {len(PHONEMES) - 1}")
    return [PHONEMES[i] for i in indices]


# -- networks -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def models() -> tuple[Model, Model]:
    """Encoder (29 letters -> GRU 256) and decoder (74 phonemes -> GRU 256 -> 74 logits)."""
    path = g2p_path()
    names = ["emb", "w_ih", "w_hh", "b_ih", "b_hh"]
    wanted = [f"{part}_{name}" for part in ("enc", "dec") for name in names] + ["fc_w", "fc_b"]
    try:
        with np.load(path) as archive:
            a = {name: archive[name].astype(float) for name in wanted}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StillnetError(
            f"'{path}' is not the checkpoint of g2p-en 2.1.0 ({error}); run: {INSTALL}"
        ) from None

    def recurrent(part: str, tokens: int, name: str) -> Model:
        w_ih, w_hh, b_ih, b_hh = (a[f"{part}_{k}"] for k in names[1:])
        folded = w_ih @ a[f"{part}_emb"].T
        return Model(inputs=tokens, name=name, one_hot=True).gru(folded, w_hh, b_ih, b_hh)

    encoder = recurrent("enc", len(GRAPHEMES), "g2p encoder")
    decoder = recurrent("dec", len(PHONEMES), "g2p decoder").dense(a["fc_w"], a["fc_b"])
    return encoder, decoder


def hand_over(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """What the decoder takes from the encoder's state: h of the GRU, layer 0 in both."""
    return {(0, "h"): state[0, "h"]}


def tokens(encoder: Stepper, decoder: Stepper, word: str, limit: int = 20) -> list[int]:
    """Phoneme tokens of a word, greedily decoded, without the end token.

    Parameters
    ----------
    encoder, decoder : Stepper
        Two networks of one kind, so that a state of one fits the other.
    word : str
    limit : int
        Phonemes after which an answer ends.
    """
    encoder.reset()
    for letter in letters(word):
        encoder.step(letter)
    decoder.reset()
    decoder.set_state(hand_over(encoder.get_state()))
    said: list[int] = []
    heard = START_PHONEME
    while len(said) < limit:
        heard = int(np.argmax(decoder.step(heard)))
        if heard == END_PHONEME:
            break
        said.append(heard)
    return said


def spell(encoder: Stepper, decoder: Stepper, word: str, limit: int = 20) -> list[str]:
    """Phonemes of a word; see :func:`tokens`."""
    return phonemes(tokens(encoder, decoder, word, limit))


def spell_float(word: str, limit: int = 20) -> list[str]:
    """Phonemes of a word by the float networks."""
    encoder, decoder = models()
    return spell(FloatNetwork(encoder), FloatNetwork(decoder), word, limit)


# -- integers and hardware ------------------------------------------------------------------------


class ReferenceNetwork:
    """A quantized network in the bit-exact reference, as a :class:`Stepper`."""

    def __init__(self, network: Network) -> None:
        self._reference = Reference(network)
        self._network = network

    def reset(self) -> None:
        """Back to the initial state."""
        self._reference.reset()

    def step(self, x: int) -> np.ndarray:
        """One token in, one integer output vector out."""
        return self._reference.step_integers(np.array([x]))

    def get_state(self) -> dict[tuple[int, str], np.ndarray]:
        """State variables, integers in the format of the cell (s16.14 for h)."""
        return {(i, s): v for i, d in enumerate(self._reference.state) for s, v in d.items()}

    def set_state(self, state: Mapping[tuple[int, str], np.ndarray]) -> None:
        """Clears, then sends the given states through the encoders."""
        self._reference.set_hidden(dict(state))


class HardwareNetwork:
    """A quantized network on a generated engine in simulation, as a :class:`Stepper`."""

    def __init__(self, network: Network, config: EngineConfig) -> None:
        from stillnet.sim.engine.equivalence import NetworkOnEngine

        self._network = network
        self._engine = NetworkOnEngine(network, config)

    def reset(self) -> None:
        """Back to the initial state."""
        self._engine.reset()

    def step(self, x: int) -> np.ndarray:
        """One token in, one integer output vector out."""
        outputs, _ = self._engine.model.run(np.array([x]), 1, self._network.outputs)
        self._engine.model.wait_idle()
        return outputs[0]

    def get_state(self) -> dict[tuple[int, str], np.ndarray]:
        """State variables read from the engine."""
        return {
            (i, s): self._engine.state(i, s)
            for i, layer in enumerate(self._network.layers)
            for s in CELLS[layer.cell].state
        }

    def set_state(self, state: Mapping[tuple[int, str], np.ndarray]) -> None:
        """Clears, then sends the given states through the engine's encoders."""
        self._engine.set_hidden(dict(state))

    @property
    def counters(self) -> dict[str, int]:
        """The engine's counters."""
        return self._engine.model.counters()


def networks(words: Sequence[str]) -> tuple[Network, Network]:
    """Encoder and decoder, quantized; calibrated on the float networks' way through ``words``."""
    encoder, decoder = models()
    heard = [np.array(letters(word)) for word in words]
    said = [
        np.array([START_PHONEME, *tokens(FloatNetwork(encoder), FloatNetwork(decoder), word)])
        for word in words
    ]
    # The decoder is calibrated without the encoder's state, so its logits get room to be larger.
    return quantize(encoder, heard), quantize(decoder, said, margin=3.0)


# -- command line ---------------------------------------------------------------------------------


CALIBRATION = tuple(
    "silence memory network stream letter number question water people language".split()
)
"""Words whose tokens choose the number formats."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints words and their phonemes; returns 0, or 1 where the hardware differs."""
    parser = argparse.ArgumentParser(description="English words in, phonemes out.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="words to speak")
    parser.add_argument("--preset", default="axi64", help="engine configuration")
    args = parser.parse_args(arguments)
    words = args.words or WORDS.split()
    table = Table(title="g2p-en: two networks on one engine configuration", title_justify="left")
    table.add_column("word", style="bold")
    table.add_column("float", style="cyan")
    table.add_column("reference")
    table.add_column("hardware")
    table.add_column("steps", justify="right", style="dim")
    differences = 0
    try:
        config = EngineConfig.load(args.preset)
        pair = networks(CALIBRATION)
        reference = [ReferenceNetwork(n) for n in pair]
        hardware = [HardwareNetwork(n, config) for n in pair]
        for word in words:
            exact = spell_float(word)
            sound = spell(reference[0], reference[1], word)
            engine = spell(hardware[0], hardware[1], word)
            state = [h.get_state() for h in (*reference, *hardware)]
            same = engine == sound and all(
                np.array_equal(state[k][key], state[k + 2][key]) for k in (0, 1) for key in state[k]
            )
            differences += not same
            table.add_row(
                escape(word),
                " ".join(exact),
                "as float" if sound == exact else " ".join(sound),
                "equal, bit for bit" if same else "[red]differs[/red]",
                str(len(letters(word)) + len(sound) + 1),
            )
    except StillnetError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        return 2
    Console().print(table)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
