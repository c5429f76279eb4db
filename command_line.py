"""What the `omnisent` command does to its arguments before they are parsed. Only the standard library is imported."""

import re

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
    spread: list[str] = []
    in_seeds = False
    for argument in arguments:
        number = re.fullmatch(r"\d+", argument) is not None
        if in_seeds and number and spread[-1] != "--seeds":
            spread.append("--seeds")
        in_seeds = argument == "--seeds" or (in_seeds and number)
        spread.append(argument)
    return spread


def as_train_has_them(arguments: list[str]) -> list[str]:
    """The options of `data check` as `train` has them, `--score_range 1 9`, in the form that the parser takes."""
    if arguments[:2] != ["data", "check"]:
        return arguments
    spread: list[str] = []
    option = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            option = name.replace("_", "-")
            argument = f"{option}{equals}{value}"
            value_follows = True
        elif option in LISTS and not value_follows:
            spread.append(option)
        else:
            value_follows = False
        spread.append(argument)
    return spread
