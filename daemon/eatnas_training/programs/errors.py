"""Errors of trainings of the user's own."""

from __future__ import annotations


class InvalidReportError(Exception):
    """The program breaks a rule of its reports; another attempt would break it again."""


class ProgramStoppedError(BaseException):
    """The training is to stop. Not an `Exception`, so that a program's own handlers let it through."""
