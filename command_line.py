"""What the `omnisent` command does to its arguments before they are parsed. Only the standard library is imported."""

import re
from collections.abc import Callable, Collection

SAME_NAME = "."  # of a Space: the name of its bundle
LISTS = ("--targets", "--raters", "--score-range")  # options of `data check` that take several values


def without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, and whether it was given; transformers' field `--debug VALUE` is kept."""
    rest = list(arguments)
    flags = [
        i for i, argument in enumerate(rest) if argument == "--debug" and rest[i + 1 : i + 2] != ["underflow_overflow"]
    ]
    for index in reversed(flags):
        del rest[index]
    return rest, bool(flags)


def one_flag_per_seed(arguments: list[str]) -> list[str]:
    """`--seeds 0 1 2` as `--seeds 0 --seeds 1 --seeds 2`, the form that the parser takes."""
    return _one_flag_per_value(arguments, ("--seeds",), lambda argument: re.fullmatch(r"\d+", argument) is not None)


def one_flag_per_group(arguments: list[str]) -> list[str]:
    """`--groups gender language` of `audit` in the form that the parser takes."""
    if "audit" not in arguments[:2]:
        return arguments
    return _one_flag_per_value(arguments, ("--groups",), lambda argument: not argument.startswith("--"))


def named_space(arguments: list[str]) -> list[str]:
    """`publish ... --space` without a name as `--space .`, the form that the parser takes."""
    if arguments[:1] != ["publish"]:
        return arguments
    named = []
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        named += [argument, SAME_NAME] if argument == "--space" and following.startswith("--") else [argument]
    return named


def as_train_has_them(arguments: list[str]) -> list[str]:
    """The options of `data check` as `train` has them, `--score_range 1 9`, in the form that the parser takes."""
    if arguments[:2] != ["data", "check"]:
        return arguments
    renamed = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        renamed.append(f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument)
    return _one_flag_per_value(renamed, LISTS, lambda argument: not argument.startswith("--"))


def _one_flag_per_value(arguments: list[str], options: Collection[str], is_value: Callable[[str], bool]) -> list[str]:
    """Each further value of some options, with the option before it."""
    spread: list[str] = []
    option = ""
    for argument in arguments:
        if not (option and is_value(argument)):
            option = argument if argument in options else ""
        elif spread[-1] != option:
            spread.append(option)
        spread.append(argument)
    return spread
