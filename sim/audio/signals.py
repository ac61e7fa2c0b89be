"""Signals: WAV files, the spectra that NSNet2 hears, noises, mixes and SI-SDR.

NumPy only. A signal is a one-dimensional float array, full scale +-1, 16,000 samples a second.

The framing and the feature are those that the NSNet2 20 ms baseline was published with (facts from
microsoft/DNS-Challenge, ``NSNet2-baseline/enhance_onnx.py`` and ``featurelib.py``; the code here is
our own): frames of 320 samples every 160, the square root of a *symmetric* Hann window, a 320-point
FFT, hence 161 bins; feature = log10 of the power, with powers below 1e-12 raised to it; the network
answers with one gain a bin, which is held between -80 dB and 1. Two things are done better here:

* One frame ends with each hop, from the first hop on, as a device that listens sees them. The
  published script drops the first of these frames, so its frame n is frame n + 1 here.
* The symmetric window does not overlap to exactly 1, so the inverse divides the difference out and
  a gain of 1 in all bins returns the signal itself, the first and last sample included.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stillnet.sw.contract.errors import StillnetError

__all__ = [
    "BINS",
    "GAIN_FLOOR",
    "HOP",
    "NOISES",
    "POWER_FLOOR",
    "RATE",
    "WINDOW",
    "apply_gains",
    "features",
    "istft",
    "level",
    "make_noise",
    "mix",
    "read_wav",
    "reconstruction_error",
    "set_level",
    "si_sdr",
    "stft",
    "vad_rows",
    "write_wav",
]

RATE = 16_000
"""Samples a second."""

_VAD_STEP, _VAD_CONTEXT = 512, 64

WINDOW = 320
"""Samples a frame, and points of the FFT: 20 ms."""

HOP = 160
"""Samples from one frame to the next: 10 ms."""

BINS = WINDOW // 2 + 1
"""Frequency bins of a frame, 50 Hz apart."""

POWER_FLOOR = 1e-12
"""Least power of a bin in the feature, so that digital silence gives -12."""

GAIN_FLOOR = 1e-4
"""Least gain of a bin: -80 dB."""

_ANALYSIS = np.sqrt(np.hanning(WINDOW))
_SYNTHESIS = _ANALYSIS / (_ANALYSIS**2 + np.roll(_ANALYSIS, HOP) ** 2)


# -- files ----------------------------------------------------------------------------------------


def read_wav(path: str | Path) -> np.ndarray:
    """A mono, 16-bit, 16 kHz WAV file.

    Returns
    -------
    array of float64, shape (samples,)
        Full scale is -1 to 1 - 2**-15.

    Raises
    ------
    StillnetError
        If the file is absent, cut short, empty, or of another format.
    """
    advice = f"convert it: ffmpeg -i FILE -ar {RATE} -ac 1 -c:a pcm_s16le NEW.wav"
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            promised = file.getnframes()
            data = file.readframes(promised)
    except OSError as error:
        raise StillnetError(f"cannot read '{path}': {error.strerror or error}") from None
    except (wave.Error, EOFError, RuntimeError) as error:
        reason = str(error) or "it ends inside its header"
        raise StillnetError(f"'{path}' is not a PCM WAV file ({reason}); {advice}") from None
    if (channels, width, rate) != (1, 2, RATE):
        raise StillnetError(
            f"'{path}' has {channels} channel(s) of {8 * width} bits at {rate} Hz, expected one of "
            f"16 bits at {RATE} Hz; {advice}"
        )
    if promised == 0:
        raise StillnetError(f"'{path}' holds no samples; record it again")
    if len(data) != 2 * promised:
        raise StillnetError(
            f"'{path}' is cut short: {len(data) // 2} of {promised} samples; copy it again"
        )
    return np.frombuffer(data, "<i2") / 32768.0


def write_wav(path: str | Path, signal: np.ndarray) -> int:
    """Writes a mono, 16-bit, 16 kHz WAV file.

    Parameters
    ----------
    path : str or Path
    signal : array of float, shape (samples,)

    Returns
    -------
    int
        Samples beyond full scale, which were clipped.
    """
    scaled = np.rint(_signal("the signal to write", signal) * 32768.0)
    data = np.clip(scaled, -32768, 32767)
    try:
        with open(path, "wb") as opened, wave.open(opened, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(data.astype("<i2").tobytes())
    except OSError as error:
        raise StillnetError(f"cannot write '{path}': {error.strerror or error}") from None
    return int(np.count_nonzero(data != scaled))


# -- spectra --------------------------------------------------------------------------------------


def stft(signal: np.ndarray) -> np.ndarray:
    """Short-time spectra of a signal.

    Frame t holds hops t - 1 and t of the signal (silence before its begin and after its end).

    Returns
    -------
    array of complex128, shape (ceil(samples / HOP) + 1, BINS)
    """
    signal = _signal("the signal", signal)
    hops = -(-len(signal) // HOP)
    padded = np.zeros((hops + 2) * HOP)
    padded[HOP : HOP + len(signal)] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.fft.rfft(frames * _ANALYSIS, axis=1)


def istft(spectra: np.ndarray, samples: int | None = None) -> np.ndarray:
    """The signal of short-time spectra; the inverse of :func:`stft`.

    Parameters
    ----------
    spectra : array of complex, shape (frames, BINS)
    samples : int, optional
        Length of the signal; all whole hops if absent.

    Returns
    -------
    array of float64, shape (samples,)
    """
    spectra = _frames("spectra", spectra)
    frames = np.fft.irfft(spectra, n=WINDOW, axis=1) * _SYNTHESIS
    out = np.zeros((len(frames) + 1, HOP))
    out[:-1] += frames[:, :HOP]
    out[1:] += frames[:, HOP:]
    signal = out[1:-1].reshape(-1)
    if samples is None:
        return signal
    if not 0 < samples <= len(signal):
        raise StillnetError(
            f"samples must be 1 to {len(signal)} for {len(frames)} frames, not {samples}"
        )
    return signal[:samples]


def features(spectra: np.ndarray) -> np.ndarray:
    """What NSNet2 takes: log10 of the power of each bin, never below -12.

    Parameters
    ----------
    spectra : array of complex, shape (steps, BINS)

    Returns
    -------
    array of float64, shape (steps, BINS)
    """
    spectra = _frames("spectra", spectra)
    return np.log10(np.maximum(spectra.real**2 + spectra.imag**2, POWER_FLOOR))


def apply_gains(spectra: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Spectra with the gains of the network applied, held between -80 dB and 1.

    Parameters
    ----------
    spectra : array of complex, shape (steps, BINS)
    gains : array of float, shape (steps, BINS)

    Returns
    -------
    array of complex, shape (steps, BINS)
    """
    spectra, gains = _frames("spectra", spectra), _frames("gains", gains)
    if spectra.shape != gains.shape:
        raise StillnetError(
            f"gains have shape {gains.shape}, expected {spectra.shape}, that of the spectra"
        )
    return spectra * np.clip(gains, GAIN_FLOOR, 1.0)


def reconstruction_error(signal: np.ndarray) -> float:
    """Largest difference between a signal and ``istft(stft(signal))``; about 1e-16 of its peak."""
    return float(np.max(np.abs(istft(stft(signal), len(signal)) - signal)))


# -- levels, mixes, measures ----------------------------------------------------------------------


def level(signal: np.ndarray) -> float:
    """RMS level in dB below full scale (0 dBFS: RMS 1); minus infinity for digital silence."""
    power = np.mean(_signal("the signal", signal) ** 2)
    return float(10 * np.log10(power)) if power > 0 else -np.inf


def set_level(signal: np.ndarray, dbfs: float) -> np.ndarray:
    """The signal scaled to an RMS level in dBFS.

    Returns
    -------
    array of float64, shape (samples,)
    """
    signal = _signal("the signal", signal)
    return signal * (_from_db(dbfs) / _rms("the signal", signal))


def mix(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech plus noise, the noise scaled to a signal-to-noise ratio over the whole clip.

    Parameters
    ----------
    speech, noise : arrays of float, shape (samples,)
    snr_db : float

    Returns
    -------
    array of float64, shape (samples,)
        The speech in it is unchanged. It may exceed full scale.
    """
    speech, noise = _signal("speech", speech), _signal("noise", noise)
    if len(speech) != len(noise):
        raise StillnetError(
            f"speech has {len(speech)} samples and noise {len(noise)}; cut them to one length"
        )
    if not np.isfinite(snr_db):
        raise StillnetError(f"snr_db must be a finite number of decibels, not {snr_db}")
    return speech + noise * (_rms("speech", speech) / _rms("noise", noise) / _from_db(snr_db))


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (both signals taken without their mean).

    Parameters
    ----------
    estimate, reference : arrays of float, shape (samples,)
    """
    estimate, reference = _signal("the estimate", estimate), _signal("the reference", reference)
    if len(estimate) != len(reference):
        raise StillnetError(
            f"the estimate has {len(estimate)} samples and the reference {len(reference)}; "
            "cut them to one length"
        )
    estimate, reference = estimate - estimate.mean(), reference - reference.mean()
    energy = np.sum(reference**2)
    if energy == 0:
        raise StillnetError("the reference is silent, so that SI-SDR has no meaning")
    target = reference * (np.sum(estimate * reference) / energy)
    kept, lost = np.sum(target**2), np.sum((estimate - target) ** 2)
    if kept == 0:
        return -np.inf
    return float(10 * np.log10(kept / lost)) if lost > 0 else np.inf


# -- noises ---------------------------------------------------------------------------------------


def make_noise(
    kind: str, samples: int, seed: int = 0, speech: np.ndarray | None = None
) -> np.ndarray:
    """A noise with zero mean and RMS 1.

    Parameters
    ----------
    kind : str
        A key of ``NOISES``.
    samples : int
    seed : int
        The same seed gives the same noise; another one another sound of the kind (other bands,
        speeds, mains frequency, voices), not only other random numbers.
    speech : array of float, shape (any,), optional
        The voices that ``babble`` is made of.

    Returns
    -------
    array of float64, shape (samples,)
    """
    if kind not in NOISES:
        raise StillnetError(f"noise must be one of {', '.join(NOISES)}, not '{kind}'")
    if samples < 1:
        raise StillnetError(f"samples must be at least 1, not {samples}")
    if seed < 0:
        raise StillnetError(f"seed must be 0 or more, not {seed}")
    rng = np.random.default_rng([int(seed), list(NOISES).index(kind)])
    if kind == "babble":
        if speech is None:
            raise StillnetError("noise 'babble' needs speech to make the voices of")
        noise = _babble(samples, rng, _signal("speech", speech))
    else:
        noise = NOISES[kind](samples, rng)
    noise = noise - noise.mean() if samples > 1 else noise
    return noise / _rms(f"noise '{kind}'", noise)


def _shaped(samples: int, rng: np.random.Generator, shape: Callable) -> np.ndarray:
    """Gaussian noise with an amplitude spectrum, given as a function of frequency in Hz."""
    # A power of two at least as long keeps the transform fast and wraps nothing audible around.
    points = 1 << max(int(samples) - 1, 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(points))
    return np.fft.irfft(spectrum * shape(np.fft.rfftfreq(points, 1 / RATE)), points)[:samples]


def _above_20_hz(f: np.ndarray) -> np.ndarray:
    return (f / 20.0) ** 2 / (1 + (f / 20.0) ** 2)


def _pink_shape(f: np.ndarray) -> np.ndarray:
    return _above_20_hz(f) / np.sqrt(np.maximum(f, 1.0))


def _brown_shape(f: np.ndarray) -> np.ndarray:
    return _above_20_hz(f) / np.maximum(f, 1.0)


def _white(samples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(samples)


def _pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    return _shaped(samples, rng, _pink_shape)


def _brown(samples: int, rng: np.random.Generator) -> np.ndarray:
    return _shaped(samples, rng, _brown_shape)


def _hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Mains and its harmonics, even ones (rectifiers) louder, over a faint hiss."""
    time = np.arange(samples) / RATE
    mains = rng.choice([50.0, 60.0])
    out = np.zeros(samples)
    for k in range(1, 25):
        amplitude = (1.0 if k % 2 == 0 else 0.5) * rng.uniform(0.3, 1.0) / k**0.7
        out += amplitude * np.sin(2 * np.pi * (mains * k * time + rng.uniform()))
    swell = 1 + 0.2 * np.sin(2 * np.pi * (rng.uniform(0.2, 1.0) * time + rng.uniform()))
    return out * swell + 0.05 * rng.standard_normal(samples)


def _band(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise between two frequencies, half an octave to three octaves apart."""
    low = 100 * 2 ** rng.uniform(0, 5)
    high = low * 2 ** rng.uniform(0.5, 3)

    def shape(f: np.ndarray) -> np.ndarray:
        f = np.maximum(f, 1.0)
        return 1 / np.sqrt((1 + (low / f) ** 12) * (1 + (f / high) ** 12))

    return _shaped(samples, rng, shape)


def _babble(samples: int, rng: np.random.Generator, speech: np.ndarray) -> np.ndarray:
    """Ten voices: the speech started anywhere, at other speeds, every second one backwards."""
    loud = np.zeros(0)
    blocks = speech[: len(speech) // HOP * HOP].reshape(-1, HOP)
    if len(blocks):
        power = np.mean(blocks**2, axis=1)
        loud = blocks[power > 0.01 * power.mean()].reshape(-1)  # no pauses: someone always talks
    if len(loud) < RATE // 4:
        raise StillnetError(
            f"noise 'babble' needs a quarter of a second of speech, not {len(loud) / RATE:.2f} s"
        )
    out = np.zeros(samples)
    for voice in range(10):
        speed = 2 ** rng.uniform(-0.35, 0.35)
        at = (rng.uniform(0, len(loud)) + speed * np.arange(samples)) % (len(loud) - 1)
        words = np.interp(at, np.arange(len(loud)), loud)
        out += (words[::-1] if voice % 2 else words) * rng.uniform(0.4, 1.0)
    return out


def _machine(samples: int, rng: np.random.Generator) -> np.ndarray:
    """A machine that turns: strokes that ring, and a hiss that swells with each turn."""
    time = np.arange(samples) / RATE
    turns = rng.uniform(5.0, 12.0)
    swell = 0.5 + 0.5 * np.sin(2 * np.pi * (turns * time + rng.uniform()))
    out = _shaped(samples, rng, _pink_shape)
    out *= swell**2 / max(float(np.std(out)), 1e-30)
    ring_time = np.arange(int(0.06 * RATE)) / RATE
    ring = np.zeros(len(ring_time))
    for frequency in rng.uniform(300, 4000, size=4):
        ring += np.sin(2 * np.pi * frequency * ring_time) * np.exp(
            -ring_time * rng.uniform(60, 200)
        )
    stroke = np.zeros(samples)
    beats = np.arange(rng.uniform(0, 0.5), samples / RATE * turns, 0.5) / turns  # two a turn
    at = (beats * RATE + rng.normal(0, 20, len(beats))).astype(int)
    at = np.clip(at, 0, samples - 1)
    stroke[at] = rng.uniform(0.6, 1.4, len(at)) * np.where(np.arange(len(at)) % 2, 1.0, 2.0)
    points = 1 << (int(samples) + len(ring)).bit_length()
    strokes = np.fft.irfft(np.fft.rfft(stroke, points) * np.fft.rfft(ring, points), points)
    return out + strokes[:samples]


NOISES: dict[str, Callable[..., np.ndarray]] = {
    "white": _white,
    "pink": _pink,
    "brown": _brown,
    "hum": _hum,
    "band": _band,
    "babble": _babble,
    "machine": _machine,
}
"""The kinds of noise. All are synthetic except ``babble``, which is made of speech."""


# -- checks ---------------------------------------------------------------------------------------


def _from_db(db: float) -> float:
    return 10.0 ** (db / 20)


def _rms(label: str, signal: np.ndarray) -> float:
    rms = float(np.sqrt(np.mean(signal**2)))
    if rms == 0:
        raise StillnetError(f"{label} is silent, so that no level can be set")
    return rms


def _signal(label: str, value: np.ndarray) -> np.ndarray:
    signal = np.asarray(value, dtype=np.float64)
    if signal.ndim != 1 or len(signal) == 0:
        raise StillnetError(f"{label} has shape {signal.shape}, expected (samples,), at least one")
    if not np.all(np.isfinite(signal)):
        at = int(np.argmin(np.isfinite(signal)))
        raise StillnetError(f"{label} holds {signal[at]} at sample {at}; remove NaN and infinity")
    return signal


def _frames(label: str, value: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 2 or array.shape[1] != BINS or len(array) < 2:
        raise StillnetError(
            f"{label} have shape {array.shape}, expected (steps, {BINS}) with at least two steps"
        )
    return array


def vad_rows(samples: np.ndarray) -> np.ndarray:
    """Steps of a voice activity detector: 512 samples behind the last 64 of the step before.

    Parameters
    ----------
    samples : array of float, shape (samples,), -1 to 1, at 16 kHz

    Returns
    -------
    array of float32, shape (steps, 576)
    """
    steps = len(samples) // _VAD_STEP
    padded = np.concatenate([np.zeros(_VAD_CONTEXT), samples])
    size = _VAD_CONTEXT + _VAD_STEP
    rows = [padded[k * _VAD_STEP : k * _VAD_STEP + size] for k in range(steps)]
    return np.stack(rows).astype(np.float32)
