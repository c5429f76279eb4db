"""Finds clips that cannot be used, by encoding each one before training, and clips that lack a modality.

Of a published data set, no test clip is left out, since results on fewer clips are not comparable: it keeps what can be read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.clip import Clip
from ..errors_omnisent import OmniSentError
from ..media_omnisent import read_header
from ..processing_omnisent import OmniSentProcessor

logger = logging.getLogger("omnisent.bad_clips")


@dataclass(frozen=True)
class BadClip:
    """A clip that cannot be encoded as it is.

    Attributes:
        id, split: of the clip.
        reason: why not.
        kept: what is used of it, `text, audio` or `text`; empty if it is left out.
    """

    id: str
    split: str
    reason: str
    kept: str = ""


class _Check(Dataset):
    def __init__(self, clips: Sequence[Clip], processor: OmniSentProcessor, keeps_tests: bool):
        self.clips, self.processor, self.keeps_tests = clips, processor, keeps_tests

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> BadClip | None:
        clip = self.clips[index]
        reason = self._fault(clip)
        if reason is None:
            return None
        bad = BadClip(clip.id, clip.split or "", reason)
        if self.keeps_tests and clip.split == "test" and "text" in self.processor.modalities:
            for kept in ("text, audio", "text"):
                if self._fault(what_is_kept(clip, kept)) is None:
                    return replace(bad, kept=kept)
        return bad

    def _fault(self, clip: Clip) -> str | None:
        try:
            warn_if_partial(self.processor.encode(clip.to_dict()))
        except OmniSentError as error:
            return str(error)
        return None


def find_bad_clips(
    clips: Sequence[Clip], processor: OmniSentProcessor, *, workers: int = 0, keeps_tests: bool = False
) -> list[BadClip]:
    """The clips that cannot be encoded, in their order.

    Args:
        clips: all of them.
        processor: of the run.
        workers: processes that read.
        keeps_tests: whether a test clip with text keeps what can be read, if text is used.
    """
    loader = DataLoader(_Check(clips, processor, keeps_tests), batch_size=None, num_workers=workers)
    return [bad for bad in tqdm(loader, total=len(clips), desc="checking clips", unit="clip") if bad is not None]


def what_is_kept(clip: Clip, kept: str) -> Clip:
    """The clip with its text and, for `text, audio`, its sound."""
    return replace(clip, video=None, audio=(clip.audio or clip.video) if "audio" in kept else None)


def warn_if_partial(encoded: Mapping[str, Any]) -> None:
    """Log a warning if part of an encoded clip could not be read."""
    if "warning" in encoded:
        logger.warning("clip %s is only partly readable: %s", encoded["clip_id"], encoded["warning"])


def is_complete(clip: Clip) -> bool:
    """Whether a clip has text, audio and video.

    Raises:
        MediaError: for a video that is missing or cannot be opened.
    """
    if not (clip.text or "").strip() or not clip.video:
        return False
    return bool(clip.audio) or read_header(clip.video).has_audio
