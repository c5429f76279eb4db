"""Rules about the targets of a run, their scales and its table; see rule.py."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace

from ..data.auto_split import parse_shares
from ..data.catalog import DATASETS, LABEL, dataset_facts, ranges_of
from ..readouts.answers import AnswerGrid
from ..readouts.catalog import READOUTS
from .rule import Rule, fault
from .targets import SCALES, table_options, targets_of

# Columns of files of results, besides those of a target.
_TAKEN = {"score", "raw", "seconds", "warning", "error", "start", "end"}


def _lacks_targets(v: SimpleNamespace) -> str | None:
    """Why a named data set has not the targets of a run; `None` if it has them."""
    facts = dataset_facts(v.dataset)
    missing = [name for name in v.targets if name not in facts.targets]
    return f"it has {', '.join(facts.targets)}" if facts.name in DATASETS and missing else None


def _off_scale(v: SimpleNamespace) -> str | None:
    """Why the metrics of a convention cannot be those of a run's scales; `None` if they can."""
    for target in targets_of(v):
        scale = SCALES.get(target.convention)
        if scale is not None and target.score_range != scale:
            return f"the classes of {target.convention} are for labels in {list(scale)}; use generic"
    return None


def _no_grid(v: SimpleNamespace) -> str | None:
    """Why there is no grid of answers for a target; `None` if there is one for each."""
    return fault(lambda: [AnswerGrid(*target.score_range, v.answer_step) for target in targets_of(v)])


def _bad_weights(v: SimpleNamespace) -> bool:
    weights = v.target_weights
    return weights is not None and (len(weights) != len(v.targets) or min(weights) < 0 or not sum(weights))


def _other_scales(v: SimpleNamespace) -> bool:
    return READOUTS[v.readout].asks_each and len({target.score_range for target in targets_of(v)}) > 1


def _same_columns(v: SimpleNamespace) -> bool:
    """Whether the columns of result files for one target would have the name of another target."""
    taken = {f"{name}_{part}" for name in v.targets for part in ("label", "raw", "low", "high")} | _TAKEN
    return len(v.targets) > 1 and not taken.isdisjoint(v.targets)


def _bad_option(fields: Sequence[str], v: SimpleNamespace) -> str | None:
    """Why no table can be read with the values of some fields; `None` if one can."""
    chosen = {name: getattr(v, name) for name in fields}
    defaults = {"targets": [LABEL], "columns": None, "raters": [], "encoding": None, "decimal": "."}
    return fault(lambda: table_options(SimpleNamespace(**{**defaults, **chosen})))


def _why_bad_option(fields: Sequence[str], v: SimpleNamespace) -> str:
    return str(_bad_option(fields, v))


TARGET_RULES = (
    Rule(("targets",), lambda v: not v.targets, "name at least one column of labels"),
    *(
        Rule(fields, partial(_bad_option, fields), partial(_why_bad_option, fields))
        for fields in (("targets",), ("columns", "targets"), ("raters", "targets"), ("encoding",))
    ),
    Rule(
        ("dataset", "columns", "raters", "encoding", "decimal"),
        lambda v: v.dataset in DATASETS and (v.columns or v.raters or v.encoding or v.decimal != "."),
        "a named data set has a layout of its own; leave the other fields out, or give the path of a table",
    ),
    Rule(("targets", "dataset"), _lacks_targets, lambda v: str(_lacks_targets(v))),
    Rule(
        ("score_range", "targets"),
        lambda v: v.score_range is not None and fault(lambda: ranges_of(v.score_range, len(v.targets))),
        lambda v: str(fault(lambda: ranges_of(v.score_range, len(v.targets)))),
    ),
    Rule(("convention", "score_range", "targets"), _off_scale, lambda v: str(_off_scale(v))),
    Rule(
        ("targets",),
        _same_columns,
        f"{', '.join(sorted(_TAKEN))}, NAME_label, NAME_raw, NAME_low and NAME_high are columns of results; give one another name"
        " with `columns`",
    ),
    Rule(
        ("readout", "score_range", "targets"),
        _other_scales,
        "this readout needs one scale for all targets, since the same answers can be written to each question; give the labels the"
        " same scale, or use the discriminative readout",
    ),
    Rule(
        ("target_weights", "targets"),
        _bad_weights,
        "give a number of at least 0 for each target, one of them above 0",
    ),
    Rule(
        ("shots", "targets"),
        lambda v: v.shots > 0 and len(v.targets) > 1,
        "the examples have one answer each; give one target, or set shots to 0",
    ),
    Rule(
        ("auto_split",),
        lambda v: v.auto_split is not None and fault(lambda: parse_shares(v.auto_split)),
        lambda v: str(fault(lambda: parse_shares(v.auto_split))),
    ),
    Rule(
        ("auto_split", "group_split"),
        lambda v: v.auto_split is not None and v.group_split,
        "the first splits a table without splits, the second splits a table anew; set one of them",
    ),
    Rule(("answer_step", "score_range", "dataset"), _no_grid, lambda v: str(_no_grid(v))),
)
