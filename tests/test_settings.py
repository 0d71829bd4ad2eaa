"""Every setting once: command line, Python functions, model card and documentation tell the same about it."""

from __future__ import annotations

import ast
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from typer.main import get_command

import das2f_map
from das2f_map.cli.app import app
from das2f_map.engines.choice import EngineChoice
from das2f_map.engines.choose import KINDS, check_choice
from das2f_map.errors import DeviceError, InputError
from das2f_map.network import NetworkConfig
from das2f_map.running.certainty import Certainty
from das2f_map.running.resources import Resources
from das2f_map.settings import Setting, settings_of
from das2f_map.training.settings import TrainingSettings

ROOT = Path(__file__).resolve().parents[1]
FUNCTIONS = {"train": das2f_map.train, "classify": das2f_map.classify}
SETTINGS = {
    "train": settings_of(TrainingSettings),
    "classify": settings_of(EngineChoice) | settings_of(Certainty) | settings_of(Resources),
}
FIXED = {"checks", "neighbours", "mixup", "ema", "warmup", "final_rate", "gradient_clip", "optimizer"}
"""Settings of a training that no user gives."""
PYTHON_ONLY = {"weight_decay"}
RENAMED = {"coregister": "coregistration", "min_area": "min_area_m2", "simplify": "simplify_m"}
"""Options whose parameter in Python has another name."""


@dataclass(frozen=True)
class Option:
    """An option of a command: its flags, the type of its values, its default, and what Typer gets of it."""

    flags: list[str]
    kind: Any
    default: Any
    info: Any


def options(command: str) -> dict[str, Option]:
    """Options of a command by the name of their parameter."""
    (function,) = (c.callback for c in app.registered_commands if c.name == command)
    assert function is not None
    hints = get_type_hints(function, include_extras=True)
    flags = {p.name: p.opts for p in get_command(app).commands[command].params}  # type: ignore[attr-defined]  # a group
    return {
        p.name: Option(flags[p.name], get_args(hints[p.name])[0], p.default, get_args(hints[p.name])[1])
        for p in inspect.signature(function).parameters.values()
        if p.default is not p.empty
    }


def defaults(command: str) -> dict[str, Any]:
    """Defaults of a command's function in Python."""
    parameters = inspect.signature(FUNCTIONS[command]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def words(page: str) -> str:
    """A page of the documentation with single spaces."""
    return " ".join((ROOT / "docs" / page).read_text(encoding="utf-8").split())


CASES = [(c, name, known) for c, found in SETTINGS.items() for name, known in found.items()]


@pytest.mark.parametrize(("command", "name", "known"), [c for c in CASES if c[1] not in FIXED | PYTHON_ONLY])
def test_command_line_has_default_range_and_help_of_the_setting(
    command: str, name: str, known: Setting
) -> None:
    option = options(command)[name]
    assert option.flags == ["--" + name.replace("_", "-")]
    assert option.kind == (known.kind if known.default is not None else known.kind | None)
    assert option.default == known.default
    assert option.info.help == known.help
    assert option.info.min == (known.gt if known.ge is None else known.ge)
    assert option.info.max == (known.lt if known.le is None else known.le)


@pytest.mark.parametrize(("command", "name", "known"), [c for c in CASES if c[1] not in FIXED])
def test_python_has_the_default_of_the_setting(command: str, name: str, known: Setting) -> None:
    assert defaults(command)[name] == known.default


@pytest.mark.parametrize("command", FUNCTIONS)
def test_options_have_the_defaults_of_python(command: str) -> None:
    python = defaults(command)
    given = {RENAMED.get(n, n): p for n, p in options(command).items()}
    common = given.keys() & python.keys()
    assert len(common) > 15
    for name in common:
        # A list that may be repeated is empty on one side, None on the other.
        assert (given[name].default or None) == (python[name] or None), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", 0),
        ("stages", 3),
        ("head", "convolutional"),
        ("assess", "cross"),
        ("folds", 1),
        ("folds", 21),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", "many"),
        ("checks", 0),
        ("batch_size", 0),
        ("batch_size", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", float("inf")),
        ("balance", -0.1),
        ("balance", 1.1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1e-9),
        ("label_smoothing", -0.1),
        ("label_smoothing", 0.51),
        ("dropout", 1.0),
        ("jitter", -1e-9),
        ("haze", 1.1),
        ("mixup", -0.1),
        ("ema", 1.0),
        ("warmup", 1.0),
        ("final_rate", 1.1),
        ("gradient_clip", 0.0),
        ("optimizer", "SGD"),
        ("seed", None),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"Training cannot run with {name} {re.escape(repr(value))}: Input"):
        TrainingSettings(**{name: value})


def test_limits_themselves_are_taken() -> None:
    TrainingSettings(stages=2, steps=1, checks=1, folds=2, batch_size=2, weight_decay=0.0, seed=0)
    TrainingSettings(label_smoothing=0.5, warmup=0.0, final_rate=1.0, folds=20, balance=0.0, haze=1.0)
    TrainingSettings(seed=2**32 - 1)
    TrainingSettings(balance=1.0, dropout=0.0, jitter=0.0, haze=0.0, mixup=0.0, ema=0.0)
    assert EngineChoice(batch_size=1).batch_size == 1


def test_number_of_devices_is_the_devices_affair() -> None:
    with pytest.raises(DeviceError, match="At least one device is needed, not 0"):
        TrainingSettings(devices=0)


def test_batch_of_an_engine_is_at_least_one_patch(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 0: Input should be greater than or equal to 1"):
        das2f_map.classify("no.tif", "no.tif", tmp_path / "map.tif", batch_size=0)


@pytest.mark.parametrize(
    "given",
    [
        *("--stages=3", "--steps=0", "--folds=1", "--label-smoothing=0.6", "--seed=1.5"),
        *("--dropout=1", "--learning-rate=0", "--learning-rate=inf", "--haze=nan"),
    ],
)
def test_command_line_refuses_them_too(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        app(["train", "ms.tif", "pan.tif", "--labels", "l.gpkg", "-o", "model", given], prog_name="das2f-map")
    assert end.value.code == 2
    assert given.partition("=")[0] in capsys.readouterr().err


def test_numbers_become_the_settings_kind() -> None:
    settings = TrainingSettings(steps=3.0, learning_rate=1)
    assert [(type(v), v) for v in (settings.steps, settings.learning_rate)] == [(int, 3), (float, 1.0)]
    assert TrainingSettings().steps is None


def test_card_records_every_setting_that_has_no_other_place_in_it() -> None:
    """Stages are listed with the network, the devices that were used with the training."""
    recorded = TrainingSettings(haze=0.5, stages=2).recorded()
    assert recorded["haze"] == 0.5
    assert settings_of(TrainingSettings).keys() - recorded.keys() == {"stages", "device", "devices", "fast"}
    assert json.loads(json.dumps(recorded)) == recorded


def test_stages_are_those_of_the_network() -> None:
    known = settings_of(TrainingSettings)["stages"]
    limits = NetworkConfig.model_json_schema()["properties"]["stages"]
    assert (known.default, known.ge, known.le) == (limits["default"], limits["minimum"], limits["maximum"])


def test_choices_are_what_there_is() -> None:
    known = settings_of(EngineChoice)
    assert known["engine"].choices == ("auto", *KINDS)
    for engine in known["engine"].choices:
        for precision in known["precision"].choices:
            check_choice(engine, precision)
    assert known["engine"].help.startswith("auto, shared, patch or onnx;")
    assert known["precision"].help.startswith("auto, fp32, bf16 or fp16;")


@pytest.mark.parametrize(("command", "name", "known"), [c for c in CASES if c[1] not in FIXED | PYTHON_ONLY])
def test_reference_of_the_command_line(command: str, name: str, known: Setting) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page.split(f"## das2f-map {command}\n")[1].split("\n## ")[0]
    (row,) = re.findall(rf"^\| `--{name.replace('_', '-')}` .*$", section, re.MULTILINE)
    assert f"| {known.help} |" in row
    assert row.endswith("| |" if known.default is None else f"| `{known.default}` |")
    if name == "stages":
        assert f"`{known.ge}\\|{known.le}`" in row


@pytest.mark.parametrize("command", FUNCTIONS)
def test_calls_in_the_python_page_have_the_defaults(command: str) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {command}\n")[1]
    call = ast.parse(section.split("```python\n")[1].split("```")[0]).body[0].value  # type: ignore[attr-defined]  # a call
    written = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    python = defaults(command)
    assert written == {name: python[name] for name in written}
    assert written.keys() >= SETTINGS[command].keys() - FIXED


def test_page_on_training_has_the_numbers() -> None:
    text, settings = words("train.md"), TrainingSettings()
    assert f"The optimiser is {settings.optimizer}" in text
    digit, _, exponent = f"{settings.weight_decay:.0e}".partition("e-")
    assert f"weight decay {digit}·10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[int(exponent)]}" in text
    assert f"over the first {settings.warmup:.0%}".replace("%", " %") in text
    assert f"to {settings.final_rate:.0%}".replace("%", " %") + " of it" in text
    assert f"clipped at norm {settings.gradient_clip:g}" in text
