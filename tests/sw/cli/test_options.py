"""One option has one name and one form in every command."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from stillnet.sw.cli.main import Command, command_parser, commands

COMMANDS = sorted(commands())


def actions(command: Command) -> list[argparse.Action]:
    return [a for a in command_parser(command)._actions if a.option_strings]


def form(action: argparse.Action) -> tuple[Any, ...]:
    """What a user types. Help, default, and whether it must be given belong to the command."""
    return (
        sorted(action.option_strings),
        action.dest,
        type(action).__name__,
        action.nargs,
        action.const,
        action.type,
        None if action.choices is None else tuple(action.choices),
    )


def differences(loaded: list[Command]) -> list[str]:
    """Options that two commands define differently, by any of their names."""
    seen: dict[str, tuple[str, tuple[Any, ...]]] = {}
    found = []
    for command in loaded:
        for action in actions(command):
            for name in action.option_strings:
                first, known = seen.setdefault(name, (command.name, form(action)))
                if known != form(action):
                    found.append(f"{name} of {first} and of {command.name}")
    return found


def test_an_option_is_the_same_in_every_command() -> None:
    assert not differences([commands()[name]() for name in COMMANDS])


def test_a_second_form_of_an_option_is_found() -> None:
    def command(name: str, **form: Any) -> Command:
        return Command(name, "", lambda parser: parser.add_argument("--depth", **form), print)

    one = command("one", type=int, help="in metres")
    assert not differences([one, command("two", type=int, default=3, required=True)])
    for other in ({"type": float}, {"type": int, "nargs": "+"}, {"action": "store_true"}):
        assert differences([one, command("two", **other)]) == ["--depth of one and of two"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    command = commands()[name]()
    assert command.name == name
    assert command.help[0].isupper() and command.help.endswith(".")
    assert f"examples:\n  stillnet {name}" in command.epilog
    for action in command_parser(command)._actions:
        assert action.help, f"{name}: {action.dest} has no help"
