"""The clips of a run, checked and split, and the processor that turns them into inputs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.auto_split import SPLIT_SEED, auto_split
from ..data.built import build_record
from ..data.catalog import DATASETS, DatasetFacts, Target
from ..data.clip import SPLITS, Clip, labels_of, of_target
from ..data.load import load_clips
from ..data.overlap import overlap_lines, overlaps, split_by_video
from ..losses_omnisent import LabelScale
from ..processing_omnisent import SETTINGS, OmniSentProcessor
from ..readouts.answers import AnswerGrid
from ..readouts.catalog import READOUTS
from ..text_omnisent import RATING_SYSTEM_PROMPT, rating_instruction
from . import run_folder
from .arguments import DataArguments, ModelArguments, OmniSentTrainingArguments
from .backbone import base_of, check_towers
from .bad_clips import BadClip, find_bad_clips, is_complete, what_is_kept
from .media_checks import MediaChecks, place_of_checks
from .targets import facts_of, inverse_density, label_scales, table_options, targets_of

logger = logging.getLogger("omnisent.data")


@dataclass(frozen=True)
class PreparedData:
    """The clips of a run and the processor that turns them into inputs.

    Attributes:
        facts: of the data set, with the scale and convention of the first target.
        targets: what is rated.
        denoise: how the audio was denoised when the data set was built.
        processor: with the run's prompt, modalities and frame budget.
        splits: usable clips of train, valid and test.
        bad: the clips that cannot be used as they are.
        with_media: whether media files are read.
    """

    facts: DatasetFacts
    targets: tuple[Target, ...]
    denoise: str
    processor: OmniSentProcessor
    splits: dict[str, list[Clip]]
    bad: list[BadClip]
    with_media: bool

    @property
    def labels(self) -> np.ndarray:
        """Labels (n,) or (n, K) of the training split, label units."""
        return labels_of(self.splits["train"])

    @property
    def scales(self) -> list[LabelScale]:
        """The scale of each target: mean and standard deviation of the training labels, and the score range."""
        return label_scales(self.targets, self.labels)

    @property
    def model_fields(self) -> dict[str, Any]:
        """What `build_model` needs to know of the targets."""
        return {"scales": self.scales, "targets": [target.name for target in self.targets]}

    def weights(self, balance: str) -> np.ndarray | None:
        """How much each training clip counts, (n,) with the mean 1; `None` if all count the same.

        Args:
            balance: `none`, or `inverse_density`.
        """
        given = [clip.weight for clip in self.splits["train"]]
        weights = np.array([1.0 if weight is None else weight for weight in given])
        if balance == "inverse_density":
            weights = weights * inverse_density(self.targets, self.labels)
        if balance == "none" and set(given) == {None}:
            return None
        if not weights.sum():
            raise ValueError("sample_weight is 0 for every training clip; give one of them a weight above 0")
        return weights / weights.mean()

    @property
    def left_out(self) -> int:
        """How many clips cannot be read and are not used at all."""
        used = {clip.id for clip in self.clips}
        return sum(clip.id not in used for clip in self.bad)

    def lacking(self, split: str) -> dict[str, int | None]:
        """How many clips of a split lack a video, and how many lack sound, for whatever reason; `None` if the model reads none."""
        read = self.processor.modalities
        facts = run_folder.clip_facts(self.splits[split]) if read != ["text"] else []
        return {
            f"without_{name}": sum(not has[name] for has in facts) if name in read else None
            for name in ("video", "audio")
        }

    @property
    def clips(self) -> list[Clip]:
        """The clips of all splits, in the order train, valid, test."""
        return [clip for name in SPLITS for clip in self.splits[name]]

    def write_environment(self, folder: Path) -> None:
        """Write environment.json of a run on these clips."""
        names = [target.name for target in self.targets]
        documents = self.facts.units_of(self.processor.modalities)
        run_folder.write_environment(folder, self.clips, with_media=self.with_media, documents=documents, targets=names)


def prepare_data(
    model_args: ModelArguments,
    data_args: DataArguments,
    args: OmniSentTrainingArguments,
) -> PreparedData:
    """Read, check and split the clips that the arguments name.

    Args:
        model_args, data_args, args: of the run.

    Raises:
        ValueError: for labels outside the range, a split without a usable clip, or media that the towers cannot read.
        FileNotFoundError: when the data set or its media are missing.
    """
    facts, record, targets = facts_of(data_args), build_record(data_args.dataset), targets_of(data_args)
    check_towers(model_args, data_args.modalities)
    with args.main_process_first(desc="preparing the clips and the processor"):
        clips = load_clips(
            data_args.dataset,
            root=data_args.root,
            genres=data_args.genres,
            with_media=uses_media(data_args),
            missing_ok=data_args.on_bad_clip == "skip",
            options=table_options(data_args),
            needs_labels=True,
        )
        if data_args.auto_split is not None:
            clips = auto_split(clips, data_args.auto_split, seed=SPLIT_SEED)
            if without := sum(clip.split is None for clip in clips):
                logger.warning("%d of %d clips have no label, and are not used", without, len(clips))
        check_labels(clips, targets)
        if data_args.group_split:
            clips = split_by_video(clips, seed=SPLIT_SEED)
        shared, documents = overlaps(clips), facts.units_of(data_args.modalities)
        for line in overlap_lines(shared, documents):
            logger.warning("%s", line)
        if any(overlap.videos for overlap in shared.values()):
            logger.warning("group_split true makes a split in which they share no %s", documents)
        processor = build_processor(model_args, data_args, targets)
        if data_args.shots:
            grid = AnswerGrid(*facts.score_range, model_args.answer_step)
            processor.examples = few_shot_examples(clips, data_args.shots, grid)
        published = facts.name in DATASETS and not facts.synthetic
        clips, bad = drop_bad_clips(clips, processor, data_args, args, keeps_tests=published)
    if data_args.complete_clips:
        complete = [clip for clip in clips if is_complete(clip)]
        logger.info("%d of %d clips have text, audio and video", len(complete), len(clips))
        clips = complete
    splits = {name: [clip for clip in clips if clip.split == name] for name in SPLITS}
    advice = "" if any(clip.split for clip in clips) else "; `auto_split: 80/10/10` splits a table without splits"
    for name in SPLITS:
        if not splits[name]:
            raise ValueError(
                f"{data_args.dataset}: no usable clip in the {name} split; training needs all of {', '.join(SPLITS)}{advice}"
            )
        for place, target in enumerate(targets):
            if not of_target(splits[name], place):
                raise ValueError(f"{data_args.dataset}: no clip in the {name} split has a label for {target.name}")
    denoise = record.denoise if record else "none"
    return PreparedData(facts, targets, denoise, processor, splits, bad, uses_media(data_args))


def uses_media(data_args: DataArguments) -> bool:
    """Whether any media file is opened."""
    return data_args.complete_clips or list(data_args.modalities) != ["text"]


def instructions(data_args: DataArguments, targets: Sequence[Target]) -> list[str]:
    """What is asked for each target: the run's own instruction with its name and scale, or the default."""
    own = data_args.instruction
    if own is None:
        return [rating_instruction([(target.asks, *target.score_range)]) for target in targets]
    filled = []
    for target in targets:
        low, high = target.score_range
        values = {"{target}": target.asks, "{low}": f"{low:g}", "{high}": f"{high:g}"}
        text = own
        for field, value in values.items():
            text = text.replace(field, value)
        filled.append(text)
    return filled


def whole_instruction(data_args: DataArguments, targets: Sequence[Target]) -> str:
    """What is asked for all targets in one prompt."""
    if data_args.instruction is None:
        return rating_instruction([(target.asks, *target.score_range) for target in targets])
    return " ".join(dict.fromkeys(instructions(data_args, targets)))


def build_processor(
    model_args: ModelArguments, data_args: DataArguments, targets: Sequence[Target]
) -> OmniSentProcessor:
    """The base model's processor with this run's prompt, modalities and frame budget."""
    given = {name: value for name, value in vars(data_args).items() if name in SETTINGS and value is not None}
    if "pool_over" in READOUTS[model_args.readout].model_fields:
        given["pool_over"] = model_args.pool_over
    if not any("sentiment" in target.asks for target in targets):
        given = {"system_prompt": RATING_SYSTEM_PROMPT, **given}
    settings = {**given, "instruction": whole_instruction(data_args, targets)}
    base, revision = base_of(model_args)
    return OmniSentProcessor.from_base(base, revision=revision, **settings)


def few_shot_examples(clips: Sequence[Clip], count: int, grid: AnswerGrid) -> list[list[str]]:
    """Pairs of a training clip's transcript and its label as an answer: those in the middle of `count` equal parts of the clips,
    sorted by label, and then in the order of the table.

    Raises:
        ValueError: for fewer training clips with a transcript.
    """
    said = [clip for clip in clips if clip.split == "train" and clip.text]
    if len(said) < count:
        raise ValueError(
            f"shots: {count} examples need as many training clips with a transcript; there are {len(said)}"
        )
    ranked = sorted(range(len(said)), key=lambda place: float(said[place].label or 0.0))
    chosen = sorted(ranked[(2 * part + 1) * len(said) // (2 * count)] for part in range(count))
    return [[str(said[place].text), grid.text(float(said[place].label or 0.0))] for place in chosen]


def check_labels(clips: Sequence[Clip], targets: Sequence[Target]) -> None:
    """Check that every clip of a split has a label, and that its labels are in the score ranges.

    Raises:
        ValueError: naming the first clip that has none, and how many there are.
    """
    used = [clip for clip in clips if clip.split in SPLITS]
    without = [clip.id for clip in used if set(clip.labels) == {None}]
    if without and len(targets) > 1:
        raise ValueError(
            f"{len(without)} clips without a label for any target, first {without[0]}; leave these clips' split empty"
        )
    for place, target in enumerate(targets):
        low, high = target.score_range
        labels = [(clip.id, clip.labels[place]) for clip in used]
        wrong = [
            (name, label)
            for name, label in labels
            if (label is None and len(targets) == 1) or (label is not None and not low <= label <= high)
        ]
        if wrong:
            of = "" if len(targets) == 1 else f" for {target.name}"
            raise ValueError(
                f"{len(wrong)} clips without a label{of} in [{low}, {high}], first {wrong[0][0]} ({wrong[0][1]}); correct the"
                " table, set score_range, or leave these clips' split empty"
            )


def drop_bad_clips(
    clips: list[Clip],
    processor: OmniSentProcessor,
    data_args: DataArguments,
    args: OmniSentTrainingArguments,
    *,
    keeps_tests: bool,
) -> tuple[list[Clip], list[BadClip]]:
    """With `on_bad_clip: skip`, the usable clips, and those that cannot be used as they are; the main process checks for all.

    With `keeps_tests`, test clips keep what can be read of them.
    """
    folder = args.folder
    clips = [clip for clip in clips if clip.split in SPLITS]
    if data_args.on_bad_clip == "error":
        return clips, []
    if args.process_index == 0:
        checks = MediaChecks(processor, place_of_checks(data_args.dataset, data_args.root), quiet=args.disable_tqdm)
        found = find_bad_clips(clips, checks, keeps_tests=keeps_tests)
        run_folder.write_bad_clips(folder, found)
    bad = run_folder.read_bad_clips(folder)
    left_out = sum(not clip.kept for clip in bad)
    if bad:
        logger.warning(
            "%d clips left out, %d used in part, listed in %s", left_out, len(bad) - left_out, folder / "bad_clips.csv"
        )
    kept = {clip.id: clip.kept for clip in bad}
    usable = [clip for clip in clips if kept.get(clip.id, "all")]
    return [what_is_kept(clip, kept[clip.id]) if clip.id in kept else clip for clip in usable], bad
