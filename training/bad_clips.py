"""Finds clips that cannot be used, by encoding each one before training, and clips that lack a modality."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.clip import Clip
from ..errors_omnisent import OmniSentError
from ..media_omnisent import read_header
from ..processing_omnisent import OmniSentProcessor

logger = logging.getLogger("omnisent.bad_clips")


class _Reasons(Dataset):
    def __init__(self, clips: Sequence[Clip], processor: OmniSentProcessor):
        self.clips, self.processor = clips, processor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> str | None:
        try:
            warn_if_partial(self.processor.encode(self.clips[index].to_dict()))
        except OmniSentError as error:
            return str(error)
        return None


def find_bad_clips(
    clips: Sequence[Clip], processor: OmniSentProcessor, *, workers: int = 0
) -> list[tuple[str, str, str]]:
    """Id, split and reason of each clip that cannot be encoded, in the order of the clips."""
    loader = DataLoader(_Reasons(clips, processor), batch_size=None, num_workers=workers)
    reasons = tqdm(loader, total=len(clips), desc="checking clips", unit="clip")
    return [(clip.id, clip.split or "", why) for clip, why in zip(clips, reasons, strict=True) if why is not None]


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
