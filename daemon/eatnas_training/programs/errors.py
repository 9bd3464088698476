"""Errors of users' own training functions."""

from __future__ import annotations


class InvalidReportError(Exception):
    """The program breaks a rule of its reports. Another attempt would break the rule again."""


class ProgramStoppedError(BaseException):
    """The training must stop. This is not an `Exception`, so that a program's own handlers do not catch it."""
