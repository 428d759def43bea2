"""Asking before something is lost."""

from __future__ import annotations

import sys

import click

from kernel.errors import SecurityError


class NotConfirmed(SecurityError):
    """The person, or the lack of one, said no."""


def confirm(what: str, *, word: str, yes: bool) -> None:
    """Go on only if somebody types `word`, or `yes` is given. Raises `NotConfirmed`.

    Where nobody can be asked (no terminal), the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{what}. Nobody can be asked here: give --yes to go on.")
    answer = click.prompt(f"{what}. Type {word!r} to go on", default="", show_default=False, err=True)
    if answer.strip() != word:
        raise NotConfirmed("Not confirmed: nothing was changed.")
