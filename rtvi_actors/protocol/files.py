"""A send-file's `file` → content or address, checked against a policy (RTVI 2.2).

The policy is ours: pipecat-ai 1.14.0 hands on whatever it is given, local paths and broken base64 included (observed).
Nothing here is fetched or opened. That an address names a machine of one's own network is for who fetches it to refuse.
"""

from __future__ import annotations

import binascii
import re
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from rtvi_actors.errors import InvalidData
from rtvi_actors.protocol.client import File, FileSource

__all__ = ["MAX_BYTES", "MAX_PIXELS", "FileContent", "FilePolicy", "FileUrl", "read_file", "shown_name"]

MAX_BYTES: Final = 32 * 1024 * 1024
"""The most that a policy may allow: a file travels between actors whole, and an actor's mail is bounded (64 MiB)."""
MAX_PIXELS: Final = 1_000_000
"""A width or height beyond it is none: no image format has as many."""
MAX_NAME_CHARS: Final = 255
"""What file systems take."""
MAX_TYPE_CHARS: Final = 255
"""Type and subtype may have 127 each (RFC 6838)."""
FORMATS: Final = (
    *("image/avif", "image/bmp", "image/gif", "image/heic", "image/heif", "image/jpeg", "image/png", "image/tiff"),
    *("image/webp", "audio/*", "application/json", "application/pdf", "text/csv", "text/markdown", "text/plain"),
)
"""What models read. SVG and HTML are not among them: they may carry script."""
NEVER: Final = frozenset({"about", "blob", "data", "file", "javascript", "vbscript"})
"""Schemes that no policy may allow: they name no file of somebody else's."""

_RESTRICTED: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TYPE: Final = re.compile(rf"(?P<type>{_RESTRICTED})/(?P<subtype>{_RESTRICTED})(?P<rest>\s*;[ -~]*)?")
"""RFC 6838; parameters are let through as printable ASCII."""
_PATTERN: Final = re.compile(rf"\*/\*|{_RESTRICTED}/(\*|{_RESTRICTED})")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
"""The characters of RFC 3986, so no blank, control character, backslash or letter beyond ASCII."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_WITH_HOST: Final = frozenset({"ftp", "http", "https", "ws", "wss"})
_DATA: Final = "data:"
_BASE64: Final = ";base64"


class FilePolicy(Struct, frozen=True):
    """Which files a client may send. Raises `ValueError` for a policy that makes no sense."""

    max_bytes: int = 8 * 1024 * 1024
    """Of one file, decoded, be it in the message or uploaded before. Messages have bounds of their own: 1 MiB is what
    client-js sends over a WebSocket."""
    formats: tuple[str, ...] = FORMATS
    """MIME types, or patterns: ``image/*``, ``*/*``. Both the type that the client names and that of a data URL must
    match one."""
    url_schemes: tuple[str, ...] = ("https", "rtvi")
    """In lower case. ``rtvi`` names an upload."""
    max_url_chars: int = 8192

    def __post_init__(self) -> None:
        if not 1 <= self.max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes must be within 1 and {MAX_BYTES}")
        for pattern in self.formats:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(f"not a MIME type or a pattern of it: {pattern!r}")
        for scheme in self.url_schemes:
            if scheme in NEVER or not _SCHEME.fullmatch(scheme):
                raise ValueError(f"not a URL scheme that may be allowed: {scheme!r}")

    def takes_format(self, media_type: str) -> bool:
        """Whether it is a MIME type that a pattern names, in whatever case, with parameters or without."""
        match = _TYPE.fullmatch(media_type)
        if match is None or len(media_type) > MAX_TYPE_CHARS:
            return False
        kind, subtype = match["type"].lower(), match["subtype"].lower()
        return any(pattern.lower() in (f"{kind}/{subtype}", f"{kind}/*", "*/*") for pattern in self.formats)


class FileContent(Struct, frozen=True):
    """A file that came with its message."""

    format: str
    """As the client says it."""
    data: bytes
    name: str | None = None
    media_type: str | None = None
    """That of the data URL it came as, where it names one."""
    width: int | None = None
    """Pixels, as the client says it; so `height`."""
    height: int | None = None


class FileUrl(Struct, frozen=True):
    """A file that is somewhere else."""

    format: str
    url: str
    name: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()


def read_file(file: File, policy: FilePolicy, *, reply_id: str | None = None) -> FileContent | FileUrl:
    """Check a file. Where it has both bytes and a URL, the bytes count, whatever `type` says (pipecat-ai 1.14.0,
    observed).

    Raises `InvalidData`, whose field is under ``data.file``.
    """
    source = file.source
    if not policy.takes_format(file.format):
        raise InvalidData("data.file.format", reply_id=reply_id, detail="not a MIME type that is taken")
    width, height = _pixels(source.width), _pixels(source.height)
    name = None if file.name is None else shown_name(file.name)
    if isinstance(source.bytes, str):
        media_type, data = _content(source.bytes, policy, reply_id)
        return FileContent(file.format, data, name, media_type, width, height)
    return FileUrl(file.format, _address(source, policy, reply_id), name, width, height)


def _pixels(value: int | None) -> int | None:
    """A size is a hint of the client's: one that is none stops nothing."""
    return value if value is not None and 1 <= value <= MAX_PIXELS else None


def shown_name(name: str) -> str:
    """A client's file name as it may be shown: without folders, on one line, printable, the last 255 characters of
    it, where the suffix is. It may be left empty."""
    base = re.split(r"[/\\]", name[-4 * MAX_NAME_CHARS :])[-1]
    plain = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in base).strip()
    return "" if plain in (".", "..") else plain[-MAX_NAME_CHARS:]


# -- bytes -----------------------------------------------------------------------


def _content(text: str, policy: FilePolicy, reply_id: str | None) -> tuple[str | None, bytes]:
    """base64, or a data URL with base64 (RFC 2397)."""
    field = "data.file.source.bytes"
    media_type = None
    if text[: len(_DATA)].lower() == _DATA:
        head, comma, text = text[len(_DATA) :].partition(",")
        if not comma or head[-len(_BASE64) :].lower() != _BASE64:
            raise InvalidData(field, reply_id=reply_id, detail="a data URL without base64")
        media_type = head[: -len(_BASE64)] or None
        if media_type is not None and not policy.takes_format(media_type):
            raise InvalidData(field, reply_id=reply_id, detail="a data URL of a MIME type that is not taken")
    return media_type, _base64(text, policy.max_bytes, field, reply_id)


def _base64(text: str, max_bytes: int, field: str, reply_id: str | None) -> bytes:
    """Strict, as audio is, but for line ends: Android's encoder puts them in by default."""
    text = text.replace("\n", "").replace("\r", "")
    if len(text) // 4 * 3 - text.endswith("=") - text.endswith("==") > max_bytes:
        raise InvalidData(field, reply_id=reply_id, detail=f"more than {max_bytes} bytes")
    try:
        if len(text) % 4:
            raise InvalidData(field, reply_id=reply_id, detail="base64 without complete padding")
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise InvalidData(field, reply_id=reply_id, detail=str(error)) from None


# -- addresses -------------------------------------------------------------------


def _address(source: FileSource, policy: FilePolicy, reply_id: str | None) -> str:
    """A URL of an allowed scheme, without credentials in it."""
    if not isinstance(source.url, str):
        raise InvalidData("data.file.source", reply_id=reply_id, detail="neither bytes nor url")
    problem = _problem(source.url, policy)
    if problem is not None:
        raise InvalidData("data.file.source.url", reply_id=reply_id, detail=problem)
    return source.url


def _problem(url: str, policy: FilePolicy) -> str | None:
    """What is wrong with a URL."""
    if len(url) > policy.max_url_chars:
        return f"more than {policy.max_url_chars} characters"
    if not _URL.fullmatch(url):
        return "not a URL"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises for what is no port
    except ValueError as error:
        return str(error)
    if parts.scheme not in policy.url_schemes:
        return "a scheme that is not allowed"
    if "@" in parts.netloc:
        return "credentials in a URL"
    return "no host" if parts.scheme in _WITH_HOST and not parts.hostname else None
