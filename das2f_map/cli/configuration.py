"""Values of options from a file and from the environment.

``DAS2F_MAP_DEVICE=cpu`` sets ``--device`` of every command that has it, ``DAS2F_MAP_CLASSIFY_DEVICE=cpu``
only that of `classify`. A TOML file has ``device = "cpu"`` at its top for every command, or in a table
``[classify]``. The command line counts before the environment, the environment before the file, and a
command's own value before the one for all.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer

from das2f_map.errors import MissingDependencyError

PREFIX: Final = "DAS2F_MAP_"
FILE_VARIABLE: Final = "DAS2F_MAP_CONFIG"
_NO_OPTIONS: Final = (f"{PREFIX}SIMD_LEVEL", f"{PREFIX}AUTOTUNE", f"{PREFIX}CACHE")
"""Variables that the kernels read, and the folder of kept shifts."""
_OF_TESTS: Final = f"{PREFIX}REQUIRE_"
_PER_RUN: Final = ("help", "overwrite", "resume", "force", "scene")
"""Options that belong to one run: they are typed each time."""
_LIMIT: Final = 1 << 20
"""Most bytes of a file."""
_KEY: Final = "das2f_map.configuration"
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class ConfiguredValue:
    """A value that the user has configured.

    Attributes
    ----------
    command:
        The command, such as ``classify`` or ``models show``.
    option:
        The long name of its option: ``--device``.
    value:
        The value for the option.
    source:
        The environment variable, or the file and the place in it.
    """

    command: str
    option: str
    value: Any
    source: str


@dataclass(frozen=True, eq=False)
class _Option:
    """An option of a command that can be configured."""

    command: tuple[str, ...]
    name: str
    parameter: Any

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    @property
    def variables(self) -> tuple[str, str]:
        """Environment variables of it, the command's own first."""
        own = "_".join((*self.command, self.key)).upper().replace("-", "_")
        return PREFIX + own, PREFIX + self.key.upper()


def configure(context: typer.Context, file: Path | None, environment: Mapping[str, str]) -> list[str]:
    """Give the commands below a context the values that the user has configured.

    Parameters
    ----------
    context:
        Of the whole command line.
    file:
        A TOML file; ``None`` for none.
    environment:
        Variables by name; empty ones count as not set.

    Returns
    -------
    Sentences about variables with the prefix of this package that no option has.

    Raises
    ------
    typer.BadParameter
        The file cannot be read, or names an option that does not exist, or a value is of the wrong type.
    MissingDependencyError
        Nothing here reads TOML.
    """
    options = list(_options(context.command))
    document = {} if file is None else _read(file)
    if file is not None:
        _check_names(document, options, str(file))
    found: dict[tuple[str, str], ConfiguredValue] = {}
    defaults: dict[str, Any] = {}
    for option in options:
        configured = _configured(option, document, file, environment)
        if configured is None:
            continue
        found[configured.command, option.parameter.name] = configured
        table = defaults
        for name in option.command:
            table = table.setdefault(name, {})
        table[option.parameter.name] = configured.value
    context.meta[_KEY] = found
    context.default_map = defaults
    return list(_unknown_variables(environment, options))


def sets_options(environment: Mapping[str, str]) -> bool:
    """Whether a variable sets an option, or seems to."""
    return any(
        name.startswith(PREFIX) and name not in _NO_OPTIONS and not name.startswith(_OF_TESTS)
        for name in environment
    )


def configured_values(context: typer.Context) -> list[ConfiguredValue]:
    """All values that the user has configured, by command and option."""
    found: dict[Any, ConfiguredValue] = context.meta.get(_KEY, {})
    return sorted(found.values(), key=lambda one: (one.option, one.command))


def told_source(context: Any, parameter: Any) -> str:
    """Words that say where a command's value comes from; empty if it is typed, or a default."""
    if parameter is None or parameter.name not in (context.default_map or {}):
        return ""
    source = context.get_parameter_source(parameter.name)
    path = " ".join(_path_of(context))
    known = context.meta.get(_KEY, {}).get((path, parameter.name))
    return f" It comes from {known.source}." if known and source and source.name == "DEFAULT_MAP" else ""


def _path_of(context: Any) -> list[str]:
    """The command of a context, without the program's name."""
    return [] if context.parent is None else [*_path_of(context.parent), context.info_name]


def _options(command: Any, path: tuple[str, ...] = ()) -> Iterator[_Option]:
    """Every option of the commands below a command that can be configured."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, (*path, name))
    if not path or getattr(command, "commands", None):
        return
    for parameter in command.params:
        names = [flag for flag in parameter.opts if flag.startswith("--")]
        if parameter.param_type_name == "option" and names and names[0].lstrip("-") not in _PER_RUN:
            yield _Option(path, names[0], parameter)


def _configured(
    option: _Option, document: Mapping[str, Any], file: Path | None, environment: Mapping[str, str]
) -> ConfiguredValue | None:
    command = " ".join(option.command)
    for variable in option.variables:
        if text := environment.get(variable, ""):
            return ConfiguredValue(command, option.name, _from_text(text, option, variable), variable)
    table: Any = document
    for name in option.command:
        table = table.get(name, {}) if isinstance(table, Mapping) else {}
    for place, values in ((f"[{'.'.join(option.command)}]", table), ("its top", document)):
        for key in (option.key, option.key.replace("_", "-")):
            if isinstance(values, Mapping) and key in values:
                source = f"{file}, {place}"
                return ConfiguredValue(command, option.name, _typed(values[key], option, source), source)
    return None


def _from_text(text: str, option: _Option, variable: str) -> Any:
    """The value that an environment variable gives."""
    if option.parameter.is_flag:
        if text.lower() not in _YES + _NO:
            raise typer.BadParameter(f"{variable} is {text!r}; a flag is 1 or 0.", param_hint=option.name)
        return text.lower() in _YES
    if option.parameter.multiple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _typed(value: Any, option: _Option, source: str) -> Any:
    """The value that a file gives, as the command line would have it."""
    wanted = "true or false" if option.parameter.is_flag else "a text or a number"
    if option.parameter.multiple:
        wanted, value = "a list of texts", [value] if isinstance(value, str) else value
        sound = isinstance(value, list) and all(isinstance(one, str) for one in value)
    elif option.parameter.is_flag:
        sound = isinstance(value, bool)
    else:
        sound = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if not sound:
        raise typer.BadParameter(
            f"{value!r} in {source} cannot be used; it must be {wanted}.", param_hint=option.name
        )
    return value if isinstance(value, (bool, list)) else str(value)


def _check_names(document: Mapping[str, Any], options: list[_Option], file: str) -> None:
    """Raise ``BadParameter`` for a name in a file that no option has."""
    commands = {option.command for option in options}

    def visit(table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        known = {o.key for o in options if path in ((), o.command)}
        inner = {c[len(path)] for c in commands if c[: len(path)] == path and len(c) > len(path)}
        for name, value in table.items():
            if isinstance(value, Mapping) and name in inner:
                visit(value, (*path, name))
            elif name.replace("-", "_") not in known or isinstance(value, Mapping):
                raise typer.BadParameter(
                    f"{file} names {name!r}{_where(path)}, which {_why(name, known | inner)}",
                    param_hint="--config",
                )

    visit(document, ())


def _where(path: tuple[str, ...]) -> str:
    return f" in [{'.'.join(path)}]" if path else ""


def _why(name: str, known: set[str]) -> str:
    if name.replace("_", "-") in _PER_RUN:
        return "belongs to one run: type it on the command line."
    near = difflib.get_close_matches(name.replace("-", "_"), sorted(known), n=1, cutoff=0.5)
    return f"no option is called there; did you mean {near[0]!r}?" if near else "no option is called there."


def _unknown_variables(environment: Mapping[str, str], options: list[_Option]) -> Iterator[str]:
    known = {FILE_VARIABLE, *_NO_OPTIONS, *(variable for o in options for variable in o.variables)}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and not name.startswith(_OF_TESTS):
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8)
            meant = f"; did you mean {near[0]}?" if near else ""
            yield f"the environment variable {name} sets no option{meant}"


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LIMIT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise typer.BadParameter(f"{file} cannot be read: {reason}", param_hint="--config") from error
    if len(content) > _LIMIT:
        raise typer.BadParameter(
            f"{file} is larger than 1 MiB: it is no configuration", param_hint="--config"
        )
    parser = _parser()
    try:
        found: dict[str, Any] = parser.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError among them
        raise typer.BadParameter(f"{file} is not TOML: {error}", param_hint="--config") from error
    return found


def _parser() -> Any:
    """The module that reads TOML: Python's own from 3.11 on."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise MissingDependencyError("--config needs Python 3.11 or the package tomli", "pip install tomli")
