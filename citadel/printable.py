"""Texts of others, so that they can stand in a log, in a database and on a terminal."""

from __future__ import annotations


def printable(text: str, limit: int) -> str:
    """At most `limit` characters of what a caller says, none of which can spoil where it is shown or kept.

    PostgreSQL, for one, refuses a whole row for the sake of a NUL.
    """
    short = text[:limit]
    return short if short.isprintable() else "".join(letter if letter.isprintable() else " " for letter in short)
