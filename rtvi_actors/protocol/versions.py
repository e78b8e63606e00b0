"""Protocol versions: parsing, negotiation, and the version that bot-ready names.

Everything that decides from a version text lives here. A version is three numbers; the unknown version is (0, 0, 0),
which is not legacy and knows nothing that came after 2.0 (PROTOCOL.md 1.5, pipecat-ai 1.14.0, observed).
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from msgspec import Struct

from rtvi_actors import errors

__all__ = [
    "SERVER_PROTOCOL",
    "UNKNOWN",
    "Negotiated",
    "Version",
    "at_least",
    "echo",
    "is_v1",
    "negotiate",
    "parse",
    "text_of",
]

Version: TypeAlias = tuple[int, int, int]

SERVER_PROTOCOL: Final[Version] = (2, 2, 0)
"""What we speak (RTVI 2.2.0, pipecat-ai 1.14.0)."""

UNKNOWN: Final[Version] = (0, 0, 0)
"""The version before client-ready, and after one whose version was refused."""

SERVED_MAJORS: Final = (1, 2)

_NUMBER = "(0|[1-9][0-9]{0,31})"
"""ASCII, no sign, no leading zero (deviation D07); 32 digits bound the work of reading one."""

_VERSION = re.compile(rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}")

_NUMBER_LIMIT = 2**31 - 1
"""Numbers beyond are kept as this: a negotiated version travels in actor messages, whose integers have 64 bits."""

_CONSEQUENCE = "Compatibility issues may occur."


class Negotiated(Struct, frozen=True):
    """What one client-ready agreed on. `error` is sent as its error-response; readiness proceeds all the same."""

    version: Version
    """To shape messages by. `UNKNOWN` when there is an error: a refused version is not adopted (deviation D08)."""
    echo: str
    """The version that bot-ready names."""
    error: errors.VersionRefused | None = None


def parse(text: str) -> Version | None:
    """The three numbers of a version text, or `None` when it is malformed."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    major, minor, patch = match.groups()
    return int(major), int(minor), int(patch)


def text_of(version: Version) -> str:
    """The version as the wire spells it."""
    return ".".join(map(str, version))


def is_v1(version: Version) -> bool:
    """Whether a client of this version gets the 1.x form of bot-output."""
    return version[0] == 1


def at_least(version: Version, floor: Version) -> bool:
    """Whether a client of this version knows what came with `floor`. The unknown version knows nothing new."""
    return version >= floor


def echo(version: Version) -> str:
    """The version that bot-ready names: a 1.x client's own, else ours (client-react chooses its code by it)."""
    return text_of(version if is_v1(version) else SERVER_PROTOCOL)


def negotiate(text: object, reply_id: str) -> Negotiated:
    """Judge the `version` of a client-ready, of whatever JSON type it is. Each handshake decides afresh (D08).

    The texts are pipecat-ai 1.14.0's; a version that is not text, or empty text, counts as absent there and here.
    """
    if not isinstance(text, str) or not text:
        return _refused(f"Client version unknown. {_CONSEQUENCE}", reply_id)
    version = parse(text)
    if version is None:
        return _refused(f"Invalid client version format ({errors.quoted(text)}). {_CONSEQUENCE}", reply_id)
    if version[0] not in SERVED_MAJORS:
        verdict = f"is not compatible with server protocol {text_of(SERVER_PROTOCOL)}"
        return _refused(f"RTVI version {errors.quoted(text)} {verdict}. {_CONSEQUENCE}", reply_id)
    major, minor, patch = version
    return Negotiated((major, min(minor, _NUMBER_LIMIT), min(patch, _NUMBER_LIMIT)), echo(version))


def _refused(text: str, reply_id: str) -> Negotiated:
    return Negotiated(UNKNOWN, echo(UNKNOWN), errors.VersionRefused(text, reply_id=reply_id))
