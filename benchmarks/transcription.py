"""Is a transcript invented for what is not speech, and does it stay within bounds for speech that the model does not know?

    python benchmarks/transcription.py

A hundred files of four to twelve seconds: silence, noise, music, and voices with the rhythm and pitch of other languages, made by
code. The recognition models have random weights and write something for any audio, so a transcript without speech is one that the
speech detector let through. Rules: a file without speech has no transcript; a voice has one of at most 16 tokens and 16 a second,
in which nothing follows itself five times. What a trained model would write for real speech, this cannot show.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from common import save, table
from scipy.signal import lfilter

from omnisent.data.clip import Clip
from omnisent.scoring.transcribe import Transcriber, without_loops

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from speech_recognizers import faster_whisper, tiny_whisper
from spoken import RATE, VOWELS

SILENCES, NOISES, MUSIC, VOICES = 20, 30, 30, 20
TOKENS = 16  # at least, and for each second
# Syllables a second, pitch in Hz, how far it moves within a syllable, and how much of a syllable is a hiss.
RHYTHMS = {
    "as in English": (4.0, 120, 0.05, 0.15),
    "as in Mandarin": (4.5, 200, 0.35, 0.15),
    "as in Spanish": (7.0, 150, 0.08, 0.1),
    "as in Arabic": (5.0, 110, 0.1, 0.3),
    "as in Japanese": (7.5, 180, 0.02, 0.1),
}


def silence(number: int, draws: np.random.Generator, time: np.ndarray) -> tuple[str, np.ndarray]:
    """Nothing, an offset, or noise of at most -60 dB."""
    level = 10 ** draws.uniform(-5, -3)
    kinds = {
        "digital zero": 0 * time,
        "offset": 0 * time + draws.uniform(-0.1, 0.1),
        "dither": draws.integers(-1, 2, len(time)) / 32768,
        "faint noise": level * draws.normal(size=len(time)),
    }
    return list(kinds.items())[number % len(kinds)]


def noise(number: int, draws: np.random.Generator, time: np.ndarray) -> tuple[str, np.ndarray]:
    """Of machines, weather and bad cables."""
    white, level = draws.normal(size=len(time)), 10 ** draws.uniform(-2, -0.6)
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * draws.uniform(0.1, 2) * time)
    hum = sum(np.sin(2 * np.pi * 50 * part * time) / part for part in (1, 2, 3, 5))
    kinds = {
        "white": white,
        "pink": lfilter([0.05, -0.096, 0.05, -0.004], [1, -2.495, 2.017, -0.522], white),
        "brown": lfilter([1], [1, -0.995], white),
        "wind": swell * lfilter([1], [1, -0.97], white),
        "hum": hum + 0.05 * white,
        "clicks": (np.abs(white) > 3.5) * 1.0,
        "engine": np.sign(np.sin(2 * np.pi * draws.uniform(25, 60) * time)) * swell + 0.2 * white,
        "beeps": np.sin(2 * np.pi * 900 * time) * (time % 0.8 < 0.2),
        "crackle": white * (draws.random(len(time)) < 0.01),
        "rain": lfilter([1, -0.9], [1], white) * (0.8 + 0.2 * swell),
    }
    name, sound = list(kinds.items())[number % len(kinds)]
    return name, level * sound / np.abs(sound).max()


def music(number: int, draws: np.random.Generator, time: np.ndarray) -> tuple[str, np.ndarray]:
    """Notes of plucked, bowed and blown kinds, chords, and drums."""
    beat = draws.uniform(0.2, 0.6)
    place = (time / beat).astype(int)
    notes = 2 ** (draws.choice([0, 2, 4, 5, 7, 9, 11, 12], place.max() + 1) / 12) * draws.uniform(110, 330)
    angle = 2 * np.pi * np.cumsum(notes[place]) / RATE
    decay, overtones = np.exp(-4 * (time % beat)), range(1, 8)
    chord = sum(np.sin(ratio * angle) for ratio in (1, 1.26, 1.5))
    kinds = {
        "plucked": decay * sum(np.sin(part * angle) / part for part in overtones),
        "bowed": sum(np.sin(part * angle + 0.02 * np.sin(35 * time)) / part for part in overtones),
        "organ": np.sin(angle) + np.sin(2 * angle) + np.sin(4 * angle),
        "chords": decay * chord,
        "drums": np.exp(-20 * (time % beat))
        * (draws.normal(size=len(time)) * (place % 2) + np.sin(2 * np.pi * 60 * time)),
        "flute": np.sin(angle) * (1 + 0.2 * np.sin(2 * np.pi * 5 * time)),
    }
    name, sound = list(kinds.items())[number % len(kinds)]
    return name, 0.4 * sound / np.abs(sound).max()


def voice(number: int, draws: np.random.Generator, time: np.ndarray) -> tuple[str, np.ndarray]:
    """Syllables of pulses and vowels' resonances."""
    name, (rate, pitch, movement, hiss) = list(RHYTHMS.items())[number % len(RHYTHMS)]
    length, parts = round(RATE / rate), []
    for _ in range(len(time) // length + 1):
        at = np.arange(length) / length
        bent = pitch * draws.uniform(0.85, 1.15) * (1 + movement * draws.choice([-1, 0, 1]) * (at - 0.5))
        sound = lfilter([1], [1, -0.96], np.diff(np.floor(np.cumsum(bent) / RATE), prepend=0))
        sound = sound + 0.02 * draws.normal(size=length)
        for formant, width in zip(VOWELS[draws.integers(len(VOWELS))], (60, 90, 150), strict=True):
            radius, angle = np.exp(-np.pi * width / RATE), 2 * np.pi * formant / RATE
            sound = lfilter(
                [1 - 2 * radius * np.cos(angle) + radius**2], [1, -2 * radius * np.cos(angle), radius**2], sound
            )
        loudness = np.clip((at - hiss) / 0.1, 0, 1) * np.clip((1 - at) / 0.2, 0, 1)
        parts.append(sound / np.abs(sound).max() * loudness + 0.2 * (at < hiss) * draws.normal(size=length))
    return name, 0.3 * np.concatenate(parts)[: len(time)]


def recordings() -> Iterator[tuple[str, str, np.ndarray]]:
    """The kind of each, what it is, and its samples."""
    draws = np.random.default_rng(0)
    for make, count in ((silence, SILENCES), (noise, NOISES), (music, MUSIC), (voice, VOICES)):
        for number in range(count):
            time = np.arange(round(draws.uniform(4, 12) * RATE)) / RATE
            yield (make.__name__, *make(number, draws, time))


def is_broken(kind: str, text: str | None, seconds: float) -> bool:
    """Whether a transcript breaks the rules; a token of these models is a letter, with the space before it."""
    if kind != "voice":
        return text is not None
    return text is not None and (len(text.replace(" ", "")) > TOKENS * (seconds + 1) or without_loops(text) != text)


def main() -> None:
    """Measure, print and save."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whisper = tiny_whisper(folder / "whisper", words=True)
        names = {
            "transformers": str(whisper),
            "faster-whisper": f"faster-whisper:{faster_whisper(folder / 'f', whisper)}",
        }
        models = {name: Transcriber(model, "cpu") for name, model in names.items()}
        bare = models["faster-whisper"]
        for number, (kind, name, audio) in enumerate(recordings()):
            path = folder / f"{number}.wav"
            soundfile.write(path, np.clip(audio, -1, 1), RATE)
            seconds = len(audio) / RATE
            texts = {model: transcribe(Clip("a", audio=str(path)))[0] for model, transcribe in models.items()}
            alone = "".join(cue.text for cue in bare._recognize(audio.astype(np.float32), False)).strip()
            broken = {model: is_broken(kind, text, seconds) for model, text in texts.items()}
            rows.append(
                {
                    "kind": kind,
                    "name": name,
                    "seconds": seconds,
                    "characters": {m: len(t or "") for m, t in texts.items()},
                }
                | {"without_detector": len(alone), "broken": broken}
            )
    counts = [
        {
            "kind": kind,
            "files": len(own := [row for row in rows if row["kind"] == kind]),
            "transcribed": sum(row["characters"]["faster-whisper"] > 0 for row in own),
            "transcribed_without_detector": sum(row["without_detector"] > 0 for row in own),
            "broken_transformers": sum(row["broken"]["transformers"] for row in own),
            "broken_faster_whisper": sum(row["broken"]["faster-whisper"] for row in own),
        }
        for kind in ("silence", "noise", "music", "voice")
    ]
    print(table([list(counts[0]), *(list(row.values()) for row in counts)]))
    save("transcription", {"counts": counts, "files": rows})


if __name__ == "__main__":
    main()
