"""Audio that a speech detector takes for speech: syllables of a falling voice, made of glottal pulses and vowels' resonances."""

import numpy as np
from scipy.signal import lfilter

RATE = 16_000
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410))  # formants, Hz


def spoken(seconds: float) -> np.ndarray:
    """Syllables, four a second; (samples,) at RATE."""
    generator, whole = np.random.default_rng(0), int(seconds * RATE)
    parts, length = [], RATE // 4
    for number in range(whole // length + 1):
        place = np.arange(length) / RATE
        pitch = (130 - 12 * (number % 5)) * (1 + 0.08 * np.sin(2 * np.pi * 2 * place))
        pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
        sound = lfilter([1], [1, -0.96], pulses) + 0.02 * generator.normal(size=length)
        for formant, width in zip(VOWELS[generator.integers(len(VOWELS))], (60, 90, 150), strict=True):
            radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * formant / RATE
            sound = lfilter(
                [1 - 2 * radius * np.cos(angle) + radius**2], [1, -2 * radius * np.cos(angle), radius**2], sound
            )
        burst = 0.3 * generator.normal(size=length) * (place < 0.03)
        loudness = np.clip((place - 0.03) / 0.02, 0, 1) * np.clip((0.25 - place) / 0.05, 0, 1)
        parts.append(sound / np.abs(sound).max() * loudness + 0.2 * burst)
    return (0.3 * np.concatenate(parts)[:whole]).astype(np.float32)
