"""Audio of examples and benches: speech from packages, noises, spectra."""
