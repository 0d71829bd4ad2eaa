"""Command classes of this command line: settings from a file and the environment, flags without a metavar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from das2f_map.cli.configuration import told_source

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command. An error in a value that the user has configured names where the value comes from."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_metavars(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message += told_source(ctx, getattr(error, "param", None))
            raise


class Group(TyperGroup):
    """A command with commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_metavars(super().get_params(ctx))


class App(typer.Typer):
    """An application whose commands are of these classes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": Group, **options})

    def command(self, name: str | None = None, **options: Any) -> Callable[[_Function], _Function]:
        return super().command(name, **{"cls": Command, **options})


def _without_metavars(options: list[Any]) -> list[Any]:
    """Leave out the metavar of flags: Typer shows the type of their value, which nobody types."""
    for option in options:
        flag = getattr(option, "is_flag", False) or getattr(option, "count", False)
        if flag and option.metavar is None:
            option.metavar = ""
    return options
