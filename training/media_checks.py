"""Reads the media of clips to see whether they can be used, and keeps what was found beside the data set.

A file is read once for the same reading settings, whatever runs follow: what was found is known by the path, size and time of each
file of a clip, so a file or a setting that changes is read again, and nothing else is. The file of results has a line for each clip
and only grows; an interrupted check goes on where it stopped, and several processes may write at once.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.catalog import DATASETS
from ..data.clip import Clip
from ..data.pinned_file import cache_folder
from ..data.reader_count import possible_readers
from ..data.saved_sets import HUB
from ..data.sources import PLANTED_ROOT
from ..errors_omnisent import OmniSentError
from ..frames_omnisent import VideoSampling
from ..long_media_omnisent import read_clip
from ..processing_omnisent import OmniSentProcessor
from .environment import installed_version

VERSION = 1  # raise when the same files and settings would give another result
PACKAGES = ("omnisent", "av", "qwen-omni-utils")  # read files, and choose frames and their size
NAME = "media.checks.jsonl"

logger = logging.getLogger("omnisent.media_checks")


@dataclass(frozen=True)
class MediaFacts:
    """What reading the media of a clip found.

    Attributes:
        fault: why they cannot be read; `None` if they can.
        warning: how much of them could not be read; `None` for files without faults.
        video_tokens, audio_tokens: what they become in the model's input.
    """

    fault: str | None = None
    warning: str | None = None
    video_tokens: int = 0
    audio_tokens: int = 0


@dataclass(frozen=True)
class MediaChecks:
    """Results for the media of clips under the settings of a processor.

    Args:
        processor: of the run.
        place: the file of results; in the user's cache if it cannot be written.
        quiet: without a progress bar.
    """

    processor: OmniSentProcessor
    place: Path
    quiet: bool = False

    def of(self, clips: Sequence[Clip]) -> list[MediaFacts]:
        """What is found in the media of each clip: kept from before, or read now on all cores that this process may use."""
        settings, modalities = self._settings(), self.processor.modalities
        files = [files_read(clip, modalities) for clip in clips]
        stamps = [[_stamp(path) for path in own.values()] for own in files]
        # With the roles of the files, since one may be read for its frames, for its sound, or for both.
        keys = [json.dumps([settings, list(own), stamp]) for own, stamp in zip(files, stamps, strict=True)]
        with_media = {key: place for place, key in enumerate(keys) if stamps[place]}
        stored = self._stored() if with_media else {}
        known = {key: stored[key] for key in with_media if key in stored}
        unread = {key: place for key, place in with_media.items() if key not in known}
        if unread:
            bar = tqdm(
                total=len(with_media), initial=len(known), desc="checking clips", unit="clip", disable=self.quiet
            )
            workers = min(possible_readers(), len(unread))
            reading = _Reading([clips[place] for place in unread.values()], self.processor)
            loader = DataLoader(reading, batch_size=None, num_workers=workers if workers > 1 else 0)
            with bar, self._kept() as keep:
                for key, facts in zip(unread, loader, strict=True):
                    known[key] = facts
                    if facts.fault is None:  # a fault may be the machine's, and pass
                        keep({"key": key, **asdict(facts)})
                    bar.update()
        return [known.get(key, MediaFacts()) for key in keys]

    def _settings(self) -> str:
        """A digest of what a result depends on besides the files."""
        processor = self.processor
        settings = {
            "version": VERSION,
            "packages": {name: installed_version(name) for name in PACKAGES},
            "modalities": [name for name in processor.modalities if name != "text"],
            "sampling": asdict(_for_check(processor)),
            "max_sound_seconds": processor.max_sound_seconds,
            "layout": [processor.family, processor.merge_size, processor.patch_size, processor.temporal_patch_size],
            "hop": processor.feature_extractor.hop_length,
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _places(self) -> tuple[Path, Path]:
        """The file of results, and the one in the cache that takes its place."""
        own = self.place.absolute()
        name = hashlib.sha256(str(own).encode()).hexdigest()[:16]
        return own, cache_folder() / "checks" / f"{name}.jsonl"

    def _stored(self) -> dict[str, MediaFacts]:
        stored, lines = {}, []
        for path in self._places:
            with suppress(OSError):  # there is none, or another user's that cannot be read
                lines += path.read_text(encoding="utf-8", errors="replace").split("\n")
        for line in lines:
            try:
                result = json.loads(line)
                key = result.pop("key")
                stored[key] = MediaFacts(**result)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # empty, or an incomplete line of an interrupted check
        return stored

    @contextmanager
    def _kept(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A function that appends a result, as a whole line, to the first place that can be written."""
        file = self._opened()
        try:
            yield lambda result: None if file is None else _append(file, json.dumps(result))
        finally:
            if file is not None:
                os.close(file)

    def _opened(self) -> int | None:
        own, in_cache = self._places
        for path in (own, in_cache):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
                _append(file, "")  # ends the incomplete line of a check that was killed
                if path != own:
                    _say_once(f"{own} cannot be written; what the check of the clips finds is kept in {path}")
                return file
        _say_once(f"neither {own} nor {in_cache} can be written; the next run checks the clips again")
        return None


class _Reading(Dataset):
    def __init__(self, clips: Sequence[Clip], processor: OmniSentProcessor):
        self.clips, self.processor = clips, processor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> MediaFacts:
        return read_facts(self.clips[index], self.processor)


def read_facts(clip: Clip, processor: OmniSentProcessor) -> MediaFacts:
    """Read the media of a clip as training does; no patches, spectra or tokens are computed."""
    try:
        media = read_clip(clip.to_dict(), processor.modalities, _for_check(processor), processor.max_sound_seconds)
    except OmniSentError as error:
        return MediaFacts(fault=str(error))
    layout, of_video, of_audio = processor.layout, 0, 0
    if media.frames is not None:
        count, _, height, width = media.frames.shape
        of_video = count // layout.temporal_patch_size * (height // layout.token_size) * (width // layout.token_size)
    if media.audio is not None:
        frames = layout.mel_frames(len(media.audio), processor.feature_extractor.hop_length)
        of_audio = layout.audio_tokens(frames)
    return MediaFacts(None, media.warning, of_video, of_audio)


def _for_check(processor: OmniSentProcessor) -> VideoSampling:
    """The processor's sampling with the faster resize, which changes values of pixels alone."""
    return replace(processor.video_sampling, exact_resize=False)


def files_read(clip: Clip, modalities: Sequence[str]) -> dict[str, str]:
    """The paths of the files that a clip is read from: its video, with or without its own sound, and its audio."""
    reads_video = "video" in modalities or ("audio" in modalities and clip.audio is None)
    paths = {"video": clip.video if reads_video else None, "audio": clip.audio if "audio" in modalities else None}
    return {role: path for role, path in paths.items() if path is not None}


def place_of_checks(dataset: str, root: str | None) -> Path:
    """The file of results of a data set: in the root of a named one, else in its folder or beside its table; of one on the Hub, in
    the cache.
    """
    if dataset in DATASETS:
        return Path(root or PLANTED_ROOT) / NAME
    if dataset.startswith(HUB):
        return cache_folder() / "checks" / f"{dataset.removeprefix(HUB).replace('/', '--')}.jsonl"
    path = Path(dataset)
    return path / NAME if path.is_dir() else path.with_name(f"{path.name}.checks.jsonl")


def _stamp(path: str) -> list[Any]:
    """Absolute path, size and time of a file; its path alone if it cannot be opened now."""
    whole = os.path.abspath(path)
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return [whole]
    status = os.stat(path)
    return [whole, status.st_size, status.st_mtime_ns]


def _append(file: int, line: str) -> None:
    os.write(file, f"{line}\n".encode())


@cache
def _say_once(message: str) -> None:
    logger.warning("%s", message)
