"""The command line: defaults, round trip, help, and what belongs together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
from absl import flags as absl_flags
from hypothesis import given
from hypothesis import strategies as st

from experiments import flags
from experiments.entry.errors import InputError
from experiments.flags import optimizer_choices
from experiments.flags.flag import flag, of_fields
from experiments.flags.settings import BY_NAME, DEFAULT_EPOCHS, FLAGS, Settings


def parse(*arguments: str) -> Settings:
    """The settings of a command line."""
    return flags.parse(["train", *arguments])


@dataclasses.dataclass(frozen=True)
class _Few:
    whole: int = flag(1, "Whole.")
    maybe: float | None = flag(None, "Maybe.")
    switch: bool = flag(False, "Switch.")
    words: str | None = flag(None, "Words.")
    several: tuple[int, ...] = flag((), "Several.")
    numbers: tuple[float, ...] = flag((), "Numbers.")


@dataclasses.dataclass(frozen=True)
class _AndTwoMore(_Few):
    literal: Literal["a", "b"] = flag("a", "Literal.")
    listed: str = flag("c", "Listed.", choices=("c", "d"))


def test_a_flag_is_what_its_field_is() -> None:
    """Name, kind and choices follow the field's name and type; the group is the field's class."""
    found = of_fields(_AndTwoMore)
    kinds = ["int", "float", "bool", "text", "ints", "floats", "choice", "choice"]
    assert [each.kind for each in found] == kinds
    assert [each.name for each in found] == [f.name for f in dataclasses.fields(_AndTwoMore)]
    assert [each.group for each in found] == ["_ few"] * 6 + ["_ and two more"] * 2
    assert [each.choices for each in found[-2:]] == [("a", "b"), ("c", "d")]


def test_settings_need_every_value() -> None:
    """A field's flag is no default: settings without a value are not made."""
    with pytest.raises(TypeError, match="missing"):
        Settings()


def test_no_arguments_give_the_default_job() -> None:
    """The default is the CNN on digits, for a number of epochs, with nothing else switched on."""
    settings = parse()
    assert (settings.dataset, settings.model) == ("digits", "cnn")
    assert (settings.steps, settings.epochs) == (None, DEFAULT_EPOCHS)
    assert (settings.clip, settings.clip_norm, settings.augment) == ("none", None, "none")
    switched_on = [each.name for each in FLAGS if getattr(settings, each.name) is True]
    assert switched_on == []


def test_every_optimizer_has_a_learning_rate() -> None:
    """Each optimizer has its own default rate; an explicit one wins."""
    for name in optimizer_choices.BY_NAME:
        expected = optimizer_choices.BY_NAME[name].learning_rate
        assert parse(f"--optimizer={name}").learning_rate == expected
        assert parse(f"--optimizer={name}", "--learning_rate=0.125").learning_rate == 0.125


def test_presets_are_changed_by_the_flags_beside_them() -> None:
    """A preset sets the augmentations, and a flag beside it takes one away or adds one."""
    article = parse("--augment=article")
    assert (article.rotation, article.shift, article.flip, article.crop) == (20.0, 0.2, True, 0)
    changed = parse("--augment=article", "--noflip", "--rotation=5", "--cutout=3")
    assert (changed.rotation, changed.shift, changed.flip, changed.cutout) == (5.0, 0.2, False, 3)


def test_piecewise_takes_its_first_rate_from_its_values() -> None:
    """The piecewise schedule needs no learning rate; its values are complete."""
    settings = parse("--schedule=piecewise", "--boundaries=10,20", "--values=1,0.1,0.01")
    assert settings.boundaries == (10, 20)
    assert settings.values == (1.0, 0.1, 0.01)
    assert settings.learning_rate == 1.0


def test_flagfile_reproduces_a_run(tmp_path: Path) -> None:
    """The settings, written as a flagfile and read again, are the same settings."""
    commands = [
        [],
        ["--schedule=piecewise", "--boundaries=3,9", "--values=0.3,0.1,1e-07", "--steps=50"],
        ["--optimizer=lars", "--momentum=0.85", "--weight_decay=0.1234567890123456789"],
        ["--clip=adaptive", "--augment=article", "--noflip", f"--directory={tmp_path}/a b"],
        ["--on_nonfinite=skip", "--strategy=mirrored", "--virtual_devices=2", "--seed=12345678901"],
        ["--schedule=exponential", "--decay_steps=7", "--staircase", "--warmup_steps=3"],
        ["--dataset=mnist", f"--data_dir={tmp_path}", "--download", "--epochs=2"],
    ]
    for number, command in enumerate(commands):
        settings = parse(*command)
        path = tmp_path / str(number)
        path.write_text(settings.to_flagfile())
        assert parse(f"--flagfile={path}") == settings


def test_what_a_command_asks_for_once_is_not_stored(tmp_path: Path) -> None:
    """A stored flagfile does not wipe the directory it is run in again, nor export once more."""
    stored = parse("--fresh", f"--directory={tmp_path}", "--debug").to_flagfile()
    assert "--fresh" not in stored
    assert "--debug" not in stored
    once = {each.name for each in FLAGS if each.lives == "command"}
    assert {"fresh", "debug", "allow_change", "export", "predict", "profile", "dry_run"} <= once
    given = dataclasses.replace(parse(), **dict.fromkeys(once, "x")).to_flagfile()
    assert not once & {line.partition("=")[0].removeprefix("--") for line in given.splitlines()}
    assert not once & set(parse().of_run())


_RECORDED = (
    "dataset model dropout batch_norm optimizer learning_rate momentum weight_decay schedule"
    " warmup_steps decay_steps decay_rate staircase boundaries values decay_alpha decay_beta"
    " num_periods end_learning_rate power cycle t_mul m_mul warmup_fraction initial_divisor"
    " final_divisor clip clip_norm augment rotation shift zoom shear flip crop cutout mixup"
    " batch_size accumulate ema lookahead monitor plateau plateau_factor init_from"
    " precision"
)


def test_a_resume_must_have_what_earlier_runs_recorded() -> None:
    """Checkpoints of earlier versions name these settings; of where and how long, none."""
    free = {"steps", "epochs", "directory", "feed", "records", "compile", "strategy", "keep_last"}
    settings = parse("--learning_rate=0.5")
    assert set(_RECORDED.split()) <= set(settings.of_run())
    assert not free & set(settings.of_run())
    assert settings.of_run()["learning_rate"] == 0.5


@given(
    rate=st.floats(1e-30, 1e30),
    decay=st.floats(0.0, 1e30).filter(lambda x: x == 0 or x > 1e-30),
    seed=st.integers(0, 2**63 - 1),
)
def test_numbers_survive_the_flagfile_exactly(rate: float, decay: float, seed: int) -> None:
    """Every float64 and int64 comes back bit for bit."""
    first = parse(f"--learning_rate={rate!r}", f"--weight_decay={decay!r}", f"--seed={seed}")
    again = parse(*first.to_flagfile().split())
    assert (again.learning_rate, again.weight_decay, again.seed) == (rate, decay, seed)


def test_flagfiles_nest_and_later_flags_win(tmp_path: Path) -> None:
    """A flagfile may read another, hold comments, and be overruled by what follows it."""
    inner = tmp_path / "inner"
    inner.write_text("# comment\n// another\n\n--batch_size=7\n  --seed=3  \n")
    outer = tmp_path / "outer"
    outer.write_text(f"--flagfile={inner}\n--seed=4\n")
    settings = parse("--batch_size=1", "--flagfile", str(outer), "--seed=5")
    assert (settings.batch_size, settings.seed) == (7, 5)


def test_a_stored_run_can_be_varied_from_the_command_line(tmp_path: Path) -> None:
    """A direct flag wins over a stored flagfile before it, with all that hangs on it."""
    stored = parse("--clip=norm", "--schedule=exponential", "--decay_steps=9", "--augment=standard")
    path = tmp_path / "flags.txt"
    path.write_text(stored.to_flagfile())
    varied = parse(
        "--steps=7", "--clip=none", f"--flagfile={path}", "--schedule=cosine", "--augment=article"
    )
    assert (varied.steps, varied.epochs) == (7, None)
    assert (varied.clip, varied.clip_norm) == ("norm", 1.0), "the last of a flag counts"
    varied = parse(
        "--flagfile",
        str(path),
        "--steps=7",
        "--clip=none",
        "--schedule=cosine",
        "--augment=article",
    )
    assert (varied.clip, varied.clip_norm) == ("none", None)
    assert (varied.schedule, varied.decay_steps, varied.staircase) == ("cosine", 9, False)
    assert (varied.rotation, varied.shift, varied.flip, varied.crop) == (20.0, 0.2, True, 0)
    with pytest.raises(InputError, match="--clip_norm"):
        parse(f"--flagfile={path}", "--clip=none", "--clip_norm=2")


def test_help_is_grouped_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """--help prints each group once and each flag under it, in 96 columns, and exits with 0."""
    with pytest.raises(SystemExit) as exit_info:
        parse("--help")
    assert exit_info.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 96
    groups = list(dict.fromkeys(each.group for each in FLAGS))
    assert [line[:-1] for line in lines if line.endswith(":") and line[0] != " "] == groups
    for each in FLAGS:
        usage = f"  --[no]{each.name}" if each.kind == "bool" else f"  --{each.name}="
        assert sum(line == usage or line.startswith(usage) for line in lines) == 1, each.name


def test_parsing_leaves_absls_global_flags_alone() -> None:
    """Parsing twice, or in a process with other absl flags, collides with nothing."""
    before = set(absl_flags.FLAGS)
    parse("--seed=1")
    parse("--seed=2")
    assert set(absl_flags.FLAGS) == before
    assert parse().seed == 0


def test_define_fills_a_given_flag_set() -> None:
    """define() gives absl every flag with its help and default."""
    values = absl_flags.FlagValues()
    flags.define(values)
    values(["train", "--batch_size=3"])
    assert values.batch_size == 3
    assert {each.name for each in FLAGS} <= set(values)


def test_only_with_names_real_flags_and_values() -> None:
    """Every condition in the table is about a choice that exists."""
    for each in FLAGS:
        if each.only_with:
            other, meaningful = each.only_with
            assert set(meaningful) <= set(BY_NAME[other].choices)
            assert meaningful, each.name
        assert set(each.needs) <= set(BY_NAME), each.name
        if each.by:
            other, defaults = each.by
            assert set(defaults) <= set(BY_NAME[other].choices), each.name


def test_defaults_lie_in_their_own_ranges() -> None:
    """A default that its own check would refuse could not be written into a flagfile."""
    for each in FLAGS:
        if each.kind in ("int", "float") and each.default is not None:
            assert each.admits(each.default), each.name
        if each.kind == "choice":
            assert each.default in each.choices, each.name
