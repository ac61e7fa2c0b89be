"""Audio: spectra and features as published, noises, mixes, WAV files."""

import wave
from pathlib import Path

import numpy as np
import pytest

from stillnet.sim.audio import signals
from stillnet.sw.contract.errors import StillnetError

# Kinds of noise that need no speech, and a stand-in for speech: a voice that comes and goes.
KINDS = [kind for kind in signals.NOISES if kind != "babble"]
TIME = np.arange(2 * signals.RATE) / signals.RATE
SPEECH = np.sin(2 * np.pi * 150 * TIME) * np.maximum(np.sin(2 * np.pi * 3 * TIME), 0.01) * 0.3


def power(x: np.ndarray) -> float:
    return float(np.mean(x**2))


# -- spectra --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 2, 159, 160, 161, 319, 320, 321, 1600, 16001])
def test_perfect_reconstruction(samples):
    signal = np.random.default_rng(samples).uniform(-1, 1, samples)
    spectra = signals.stft(signal)
    assert spectra.shape == (-(-samples // 160) + 1, 161)
    assert np.max(np.abs(signals.istft(spectra, samples) - signal)) < 1e-14
    assert signals.reconstruction_error(signal) < 1e-14
    whole = signals.istft(spectra)
    assert len(whole) == (len(spectra) - 1) * 160
    assert np.max(np.abs(whole[samples:]), initial=0) < 1e-14


def test_features_are_those_of_the_published_baseline():
    """Each frame and bin from the definition, by a plain Fourier sum."""
    signal = np.random.default_rng(1).normal(0, 0.1, 1000)
    signal[500:] = 0
    got = signals.features(signals.stft(signal))
    n = np.arange(320)
    window = np.sin(np.pi * n / 319)  # the square root of the symmetric Hann window
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(161), n) / 320)
    padded = np.concatenate([np.zeros(160), signal, np.zeros(320)])
    assert got.shape == (8, 161)
    for t in range(8):
        spectrum = fourier @ (window * padded[160 * t : 160 * t + 320])
        expected = np.log10(np.maximum(np.abs(spectrum) ** 2, 1e-12))
        np.testing.assert_allclose(got[t], expected, rtol=0, atol=1e-6)
    assert np.all(got[5:] == -12)


def test_frame_after_the_first_is_the_first_of_the_published_script():
    signal = np.random.default_rng(2).normal(0, 0.1, 960)
    window = np.sqrt(np.hanning(320))
    np.testing.assert_allclose(
        signals.stft(signal)[1], np.fft.rfft(signal[:320] * window), rtol=0, atol=1e-12
    )


def test_full_scale_tone_gives_the_window_s_power():
    tone = np.cos(2 * np.pi * 1000 * TIME)
    top = signals.features(signals.stft(tone))[50]
    assert np.argmax(top) == 20
    assert top[20] == pytest.approx(2 * np.log10(np.sqrt(np.hanning(320)).sum() / 2), abs=1e-3)


def test_frames_are_causal():
    """A frame never depends on samples after its hop, so that a device can compute it."""
    signal = np.random.default_rng(3).normal(0, 0.1, 1600)
    changed = signal.copy()
    changed[800:] = 0
    before, after = signals.stft(signal), signals.stft(changed)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.all(np.abs(before[5] - after[5]).max() > 0)


def test_gains_are_held_between_their_floor_and_one():
    spectra = signals.stft(SPEECH)
    gains = np.ones(spectra.shape)
    gains[:, 0], gains[:, 1], gains[:, 2] = -1, 2, 0.5
    out = signals.apply_gains(spectra, gains)
    np.testing.assert_array_equal(out[:, 0], spectra[:, 0] * 1e-4)
    np.testing.assert_array_equal(out[:, 1], spectra[:, 1])
    np.testing.assert_array_equal(out[:, 2], spectra[:, 2] * 0.5)


def test_unit_gains_return_the_signal():
    spectra = signals.stft(SPEECH)
    out = signals.istft(signals.apply_gains(spectra, np.ones(spectra.shape)), len(SPEECH))
    np.testing.assert_allclose(out, SPEECH, rtol=0, atol=1e-14)


# -- levels, mixes, measures ----------------------------------------------------------------------


@pytest.mark.parametrize("snr_db", [-30.0, -5.0, 0.0, 5.0, 40.0])
@pytest.mark.parametrize("kind", KINDS)
def test_snr_of_a_mix_is_exact(kind, snr_db):
    noisy = signals.mix(SPEECH, 7 * signals.make_noise(kind, len(SPEECH)), snr_db)
    got = 10 * np.log10(power(SPEECH) / power(noisy - SPEECH))
    assert got == pytest.approx(snr_db, abs=1e-9)


def test_levels():
    assert signals.level(signals.set_level(SPEECH, -26.0)) == pytest.approx(-26, abs=1e-9)
    assert signals.level(np.zeros(4)) == -np.inf
    assert signals.level(np.ones(4)) == 0


def test_si_sdr():
    rng = np.random.default_rng(4)
    noise = rng.normal(size=len(SPEECH))
    reference = SPEECH - SPEECH.mean()
    noise -= noise.mean()
    noise -= reference * (noise @ reference) / (reference @ reference)  # orthogonal: SI-SDR = SNR
    for snr in (-10.0, 0.0, 12.5):
        estimate = signals.mix(reference, noise, snr)
        assert signals.si_sdr(estimate, reference) == pytest.approx(snr, abs=1e-9)
        assert signals.si_sdr(-3 * estimate + 0.1, reference) == pytest.approx(snr, abs=1e-9)
    assert signals.si_sdr(reference, reference) > 250  # infinity, but for rounding
    assert signals.si_sdr(np.zeros(len(SPEECH)), reference) == -np.inf


# -- noises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(signals.NOISES))
def test_noises_are_seeded_and_normal(kind):
    first = signals.make_noise(kind, 20000, 3, speech=SPEECH)
    again = signals.make_noise(kind, 20000, 3, speech=SPEECH)
    other = signals.make_noise(kind, 20000, 4, speech=SPEECH)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (20000,) and np.all(np.isfinite(first))
    assert abs(first.mean()) < 1e-12 and power(first) == pytest.approx(1)
    assert abs(np.mean(first * other)) < 0.5


@pytest.mark.parametrize("kind", list(signals.NOISES))
@pytest.mark.parametrize("samples", [2, 3, 160, 1001])
def test_noises_of_any_length(kind, samples):
    noise = signals.make_noise(kind, np.int64(samples), speech=SPEECH)
    assert noise.shape == (samples,) and power(noise) == pytest.approx(1)


@pytest.mark.parametrize("kind, slope", [("white", 0.0), ("pink", -3.0), ("brown", -6.0)])
def test_colours_fall_as_their_names_say(kind, slope):
    noise = signals.make_noise(kind, 20 * signals.RATE)
    spectrum = np.abs(np.fft.rfft(noise)) ** 2
    f = np.fft.rfftfreq(len(noise), 1 / signals.RATE)
    octaves = [10 * np.log10(spectrum[(f >= a) & (f < 2 * a)].mean()) for a in (125, 2000)]
    assert (octaves[1] - octaves[0]) / 4 == pytest.approx(slope, abs=0.3)


def test_kinds_of_noise_differ():
    noises = [signals.make_noise(kind, 32000, 1, speech=SPEECH) for kind in signals.NOISES]
    spectra = [signals.features(signals.stft(noise)).mean(axis=0) for noise in noises]
    for i, a in enumerate(spectra):
        for b in spectra[:i]:
            assert np.sqrt(np.mean((a - b) ** 2)) > 0.1  # 1 dB over all bins


# -- WAV files ------------------------------------------------------------------------------------


def test_wav_roundtrip_is_exact(tmp_path):
    integers = np.array([-32768, -1, 0, 1, 32767, 1234], dtype=np.int64)
    assert signals.write_wav(tmp_path / "a.wav", integers / 32768) == 0
    np.testing.assert_array_equal(signals.read_wav(tmp_path / "a.wav") * 32768, integers)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, 16000, 6)


def test_wav_clips_and_says_so(tmp_path):
    assert signals.write_wav(tmp_path / "a.wav", np.array([1.5, -1.5, -1.0, 0.5])) == 2
    expected = [32767 / 32768, -1, -1, 0.5]
    np.testing.assert_array_equal(signals.read_wav(tmp_path / "a.wav"), expected)


def _wav(path: Path, channels: int = 1, width: int = 2, rate: int = 16000, size: int = 8) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(size))
    return path


@pytest.mark.parametrize(
    "form, words",
    [
        ({"channels": 2}, r"2 channel\(s\) of 16 bits at 16000 Hz, expected one of 16 bits"),
        ({"width": 1}, r"1 channel\(s\) of 8 bits"),
        ({"rate": 44100}, r"at 44100 Hz, expected .* at 16000 Hz; convert it: ffmpeg"),
        ({"size": 0}, r"holds no samples"),
    ],
)
def test_wav_of_another_form(tmp_path, form, words):
    with pytest.raises(StillnetError, match=words):
        signals.read_wav(_wav(tmp_path / "a.wav", **form))


def test_wav_that_is_none(tmp_path):
    path = tmp_path / "a.wav"
    with pytest.raises(StillnetError, match=r"^cannot read '.*a.wav': No such file"):
        signals.read_wav(path)
    for content in (b"", b"RIFF", b"hello world, this is text", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(StillnetError, match=r"^'.*a.wav' is not a PCM WAV file \(.+\); conv"):
            signals.read_wav(path)
    whole = _wav(path, size=1000).read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(StillnetError, match=r"not a PCM WAV file|is cut short"):
            signals.read_wav(path)
    with pytest.raises(StillnetError, match=r"^cannot write '.*': No such file"):
        signals.write_wav(tmp_path / "none" / "a.wav", SPEECH)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: signals.stft(np.zeros((2, 2))), r"^the signal has shape \(2, 2\), expected"),
        (lambda: signals.stft(np.zeros(0)), r"^the signal has shape \(0,\)"),
        (lambda: signals.stft(np.array([0, np.nan])), r"holds nan at sample 1; remove NaN"),
        (lambda: signals.istft(np.zeros((3, 160))), r"^spectra have shape \(3, 160\), expected"),
        (lambda: signals.istft(np.zeros((3, 161)), 321), r"^samples must be 1 to 320 for 3 frames"),
        (
            lambda: signals.apply_gains(np.zeros((3, 161)), np.zeros((2, 161))),
            r"^gains have shape \(2, 161\), expected \(3, 161\)",
        ),
        (lambda: signals.mix(SPEECH, SPEECH[1:], 5), r"^speech has 32000 samples and noise 31999"),
        (lambda: signals.mix(SPEECH * 0, SPEECH, 5), r"^speech is silent"),
        (lambda: signals.mix(SPEECH, SPEECH * 0, 5), r"^noise is silent"),
        (lambda: signals.mix(SPEECH, SPEECH, np.nan), r"^snr_db must be a finite number"),
        (lambda: signals.si_sdr(SPEECH, SPEECH * 0), r"^the reference is silent"),
        (lambda: signals.make_noise("green", 9), r"^noise must be one of white, .*, not 'green'"),
        (lambda: signals.make_noise("pink", 0), r"^samples must be at least 1, not 0"),
        (lambda: signals.make_noise("pink", 9, -1), r"^seed must be 0 or more, not -1"),
        (lambda: signals.make_noise("babble", 9), r"^noise 'babble' needs speech"),
        (
            lambda: signals.make_noise("babble", 9, 0, SPEECH[:999]),
            r"needs a quarter of a second",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, words):
    with pytest.raises(StillnetError, match=words):
        call()
