"""What the `omnisent` command does to its arguments before they are parsed. Only the standard library is imported."""

import re


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
