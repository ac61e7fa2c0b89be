"""Cells in floating point, written from their papers and from nothing of stillnet's.

Each takes weights as arrays, a sequence x, shape (steps, inputs), and gives outputs, shape (steps,
units), and final state.
"""

from __future__ import annotations

import numpy as np


def logistic(x):
    return 1.0 / (1.0 + np.exp(-x))


def lstm(x, w_ih, w_hh, b_ih, b_hh, h, c, peepholes=None):
    """Gates i, f, g, o as in PyTorch; peepholes pi, pf see the old c, po the new one."""
    p = peepholes or {"i": 0.0, "f": 0.0, "o": 0.0}
    y = []
    for row in x:
        i, f, g, o = np.split(w_ih @ row + b_ih + w_hh @ h + b_hh, 4)
        i, f = logistic(i + p["i"] * c), logistic(f + p["f"] * c)
        c = f * c + i * np.tanh(g)
        h = logistic(o + p["o"] * c) * np.tanh(c)
        y.append(h)
    return np.array(y), (h, c)


def gru(x, w_ih, w_hh, b_ih, b_hh, h, reset="after", f=np.tanh):
    """Gates r, z, n as in PyTorch: h' = (1 - z) n + z h."""
    units = len(h)
    y = []
    for row in x:
        ir, iz, inn = np.split(w_ih @ row + b_ih, 3)
        hr, hz, hn = np.split(w_hh @ h + b_hh, 3)
        r, z = logistic(ir + hr), logistic(iz + hz)
        if reset == "after":
            n = f(inn + r * hn)
        else:
            n = f(inn + w_hh[2 * units :] @ (r * h) + b_hh[2 * units :])
        h = (1 - z) * n + z * h
        y.append(h)
    return np.array(y), h


def egru(x, w_ih, w_hh, b_ih, b_hh, theta, h, clear_every=0):
    """Gates r, z, g. y is what is spoken; only y goes into the products."""
    out = np.zeros(len(h))
    ys = []
    for t, row in enumerate(x):
        if clear_every and t % clear_every == 0 and t:
            h = np.zeros_like(h)
        ir, iz, ig = np.split(w_ih @ row + b_ih, 3)
        hr, hz, hg = np.split(w_hh @ out + b_hh, 3)
        r, z = logistic(ir + hr), logistic(iz + hz)
        g = np.tanh(ig + r * hg)
        c = z * h + (1 - z) * g
        event = c > theta
        out = np.where(event, c, 0.0)
        h = np.where(event, c - theta, c)
        ys.append(out)
    return np.array(ys), h


def mingru(x, w, b, h):
    """Gates z, candidate."""
    y = []
    for row in x:
        z, c = np.split(w @ row + b, 2)
        z = logistic(z)
        h = (1 - z) * h + z * c
        y.append(h)
    return np.array(y), h


def ligru(x, w_ih, w_hh, b, h):
    """Gates z, candidate through ReLU."""
    y = []
    for row in x:
        z, c = np.split(w_ih @ row + w_hh @ h + b, 2)
        z = logistic(z)
        h = z * h + (1 - z) * np.maximum(c, 0.0)
        y.append(h)
    return np.array(y), h


def leaky(x, w, b, rate, s):
    y = []
    for row in x:
        s = (1 - rate) * s + rate * (w @ row + b)
        y.append(s)
    return np.array(y), s


def convolution(x, w, b, f=lambda v: v):
    """Conv1d with taps - 1 zero vectors in front, weights (units, inputs, taps)."""
    taps = w.shape[2]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    windows = [padded[t : t + taps] for t in range(len(x))]
    return np.array([f(np.einsum("uik,ki->u", w, v) + b) for v in windows])


def lru(x, lam, b, c, d, gamma, bias):
    state = np.zeros(len(lam), complex)
    y = []
    for row in x:
        state = lam * state + gamma * (b @ row)
        y.append((c @ state).real + d @ row + bias)
    return np.array(y)


def s5_stack(x, encoder, blocks, decoder):
    """Encoder, blocks, decoder. A block is a dict of lam, step, b, c, d (continuous), norm (mean,
    variance, weight, bias), glu (weight, bias) and method."""
    v = x @ encoder[0].T + encoder[1]
    for block in blocks:
        lam, step = block["lam"], block["step"]
        if block["method"] == "zoh":
            lam_bar = np.exp(lam * step)
            b_bar = ((lam_bar - 1) / lam)[:, None] * block["b"]
        else:
            inverse = 1 / (1 - step / 2 * lam)
            lam_bar = inverse * (1 + step / 2 * lam)
            b_bar = (inverse * step)[:, None] * block["b"]
        mean, variance, weight, bias = block["norm"]
        u = (v - mean) / np.sqrt(variance + 1e-5) * weight + bias
        state = np.zeros(len(lam), complex)
        y = []
        for row in u:
            state = lam_bar * state + b_bar @ row
            open_ = (state.real > 0) | ((state.real == 0) & (state.imag > 0))
            y.append(2 * (block["c"] @ np.where(open_, state, 0)).real + block["d"] * row)
        x1 = np.maximum(np.array(y), 0)
        z = x1 * logistic(x1 @ block["glu"][0].T + block["glu"][1])
        v = np.maximum(z + v, 0)
    return v @ decoder[0].T + decoder[1]
