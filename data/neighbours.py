"""The transcripts of the clips that precede a clip in the same video and the same split."""

from collections import defaultdict
from collections.abc import Sequence

from .clip import Clip


def preceding_texts(clips: Sequence[Clip], count: int) -> dict[str, tuple[str, ...]]:
    """For each clip id, the transcripts of up to `count` clips before it, the earliest first.

    Clips of other splits are ignored, so no test text reaches training. Clips without a transcript
    are skipped; a clip without video_id or clip_index has no neighbours.

    Raises:
        ValueError: for a count below 0.
    """
    if count < 0:
        raise ValueError(f"context_clips: expected 0 or more, found {count}")
    videos: dict[tuple[str | None, str], list[tuple[int, Clip]]] = defaultdict(list)
    for clip in clips:
        if clip.video_id is not None and clip.clip_index is not None:
            videos[clip.split, clip.video_id].append((clip.clip_index, clip))
    texts: dict[str, tuple[str, ...]] = {clip.id: () for clip in clips}
    for video in videos.values():
        texts_before: list[tuple[int, str]] = []
        for index, clip in sorted(video, key=lambda indexed: indexed[0]):
            before = [text for earlier, text in texts_before if earlier < index]
            texts[clip.id] = tuple(before[max(0, len(before) - count) :])
            if clip.text is not None:
                texts_before.append((index, clip.text))
    return texts
