"""The command line: it answers at once, names what is wrong in one line, and shows a traceback when asked."""

import subprocess
import sys

import pytest

from omnisent import __version__, cli
from omnisent.command_line import one_flag_per_seed, without_debug
from omnisent.training.arguments import ARGUMENTS
from omnisent.training.field_names import field_names, shipped_configs

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "datasets", "sklearn")
AT_ONCE = f"""
import sys
from omnisent.cli import main
try:
    main()
finally:
    heavy = {set(HEAVY)} & {{name.split(".")[0] for name in sys.modules}}
    if heavy:
        print("slow imports:", heavy, file=sys.stderr)
"""


def answer(*arguments: str, program: str = AT_ONCE) -> subprocess.CompletedProcess:
    """What the command prints; a line on standard error says which heavy packages it imported."""
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)


def commands() -> list[tuple[str, ...]]:
    """All commands there are, as words."""
    groups = [((), cli.app), *(((group.name,), group.typer_instance) for group in cli.app.registered_groups)]
    found = [
        (*words, command.name or command.callback.__name__)
        for words, group in groups
        for command in group.registered_commands
    ]
    assert len(found) > 10
    return found


def test_scoring_starts_without_what_training_and_studies_need():
    program = "import sys, omnisent.scoring.job; print({'transformers.trainer', 'datasets', 'scipy.stats'} & sys.modules.keys())"
    assert answer(program=program).stdout == "set()\n"


def test_help_of_every_command_is_fast():
    for words in [(), *commands()]:
        done = answer(*words, "--help")
        assert (done.returncode, done.stderr) == (0, ""), words
        assert "Usage: omnisent" in done.stdout
        assert "--debug" in done.stdout


def test_help_lists_all_commands_in_full_sentences():
    done = answer("--help")
    assert all(words[0] in done.stdout for words in commands())
    assert "..." not in done.stdout.replace("[ARGS]...", "")


def test_version():
    done = answer("--version")
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scor",), "No such command 'scor'"),
        (("score", "a.mp4", "--modle", "x"), "No such option"),
        (("train",), "omnisent: name a config: a YAML file, or one of best, mosei, mosi, small, small_mosi, tiny"),
        (("train", ""), "omnisent: name a config"),
        (("train", "--fields", "--bogus"), "there is no field 'bogus'"),
        (("score", "a.mp4"), "Missing option '--model'"),
        (("score", "a.mp4", "--model", "x", "--windows", "soon"), "soon"),
        (("plan", "tiny", "--lora_rr", "3"), "omnisent: there is no field 'lora_rr'; did you mean lora_r?"),
        (
            ("train", "tiny", "--num-train-epoch=3"),
            "there is no field 'num_train_epoch'; did you mean num_train_epochs?",
        ),
        (
            ("compare", "tiny", "--out", "x", "--zzz"),
            "there is no field 'zzz'; `omnisent train --fields` lists them all",
        ),
        (("ablate", "tiny", "--out", "x", "--los", "l1"), "there is no field 'los'; did you mean loss?"),
        (("probe", "tiny", "--out", "x", "--dropout", "1"), "there is no field 'dropout'"),
        (
            ("baseline", "constant", "tiny", "--out", "x", "--seeed", "1"),
            "there is no field 'seeed'; did you mean seed?",
        ),
        (("data", "build", "cmu_mosy", "--root", ".", "--out", "x"), "'cmu_mosy' is not one of 'planted', 'cmu_mosi'"),
    ],
)
def test_a_mistyped_option_is_reported_without_importing_torch(arguments, message):
    done = answer(*arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "slow imports" not in done.stderr
    assert len(done.stderr.splitlines()) <= 5


def test_a_page_without_a_bundle_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = answer("app")
    line = "omnisent: give a bundle with --model, or make runs/real/model with `make real`; it is not there yet\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_the_names_of_fields_read_from_source_are_those_of_the_classes():
    names = field_names()
    own = [name for kind in ARGUMENTS for name in kind.__dataclass_fields__]
    assert set(names) == set(own)


@pytest.mark.parametrize("place", range(4))
def test_debug_shows_the_traceback_at_any_position(monkeypatch, tmp_path, place):
    words = ["report", str(tmp_path), "--out", str(tmp_path / "report.html")]
    monkeypatch.setattr(sys, "argv", ["omnisent", *words])
    with pytest.raises(SystemExit, match=r"^omnisent: .*expected comparison\.json"):
        cli.main()
    monkeypatch.setattr(sys, "argv", ["omnisent", *words[:place], "--debug", *words[place:]])
    with pytest.raises((ValueError, OSError), match=r"expected comparison\.json"):
        cli.main()


def test_debug_of_transformers_stays_a_field():
    arguments = ["train", "tiny", "--debug", "underflow_overflow"]
    assert without_debug(arguments) == (arguments, False)
    assert without_debug([*arguments, "--debug"]) == (arguments, True)


def test_seeds_may_follow_one_flag():
    assert one_flag_per_seed(["--seeds", "0", "1", "--out", "2"]) == ["--seeds", "0", "--seeds", "1", "--out", "2"]


def test_shipped_configs_are_found_by_name(monkeypatch, capsys):
    def plan(config: str) -> str:
        monkeypatch.setattr(sys, "argv", ["omnisent", "plan", config, "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or capsys.readouterr().out

    assert {"mosi", "mosei", "tiny"} <= shipped_configs().keys()
    assert plan("tiny") == plan(str(shipped_configs()["tiny"]))
    assert "'mosy' is neither a field nor a config" in plan("mosy")
