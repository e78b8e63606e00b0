from __future__ import annotations

import base64
import string
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.errors import InvalidData
from rtvi_actors.protocol.client import File, FileSource
from rtvi_actors.protocol.files import MAX_BYTES, MAX_PIXELS, FileContent, FilePolicy, FileUrl, read_file

POLICY = FilePolicy()
BYTES = "AQIDBA=="


def read(
    source: FileSource, *, policy: FilePolicy = POLICY, media_type: str = "image/png", name: str | None = None
) -> FileContent | FileUrl:
    return read_file(File(media_type, source, name), policy, reply_id="m1")


def try_read(source: FileSource) -> FileContent | FileUrl | str:
    """What is read, or the field that is wrong."""
    try:
        return read(source)
    except InvalidData as error:
        return error.field


def read_bytes(text: str, policy: FilePolicy = POLICY) -> FileContent:
    content = read(FileSource(bytes=text), policy=policy)
    assert isinstance(content, FileContent)
    return content


def read_url(url: str, policy: FilePolicy = POLICY) -> FileUrl:
    found = read(FileSource(url=url), policy=policy)
    assert isinstance(found, FileUrl)
    return found


def field_of(source: FileSource, policy: FilePolicy = POLICY, media_type: str = "image/png") -> str:
    """The field that is wrong; the error is the client's, and has its id."""
    with pytest.raises(InvalidData) as caught:
        read(source, policy=policy, media_type=media_type)
    assert caught.value.reply_id == "m1"
    return caught.value.field


# -- which source, which type ------------------------------------------------------------


def test_bytes_count_where_both_are_there_and_whatever_type_says() -> None:
    assert isinstance(read(FileSource("url", BYTES, "https://x")), FileContent)
    assert isinstance(read(FileSource("bytes", url="https://x")), FileUrl)
    assert field_of(FileSource("bytes")) == "data.file.source"


@pytest.mark.parametrize("media_type", ["image/png", "IMAGE/PNG", "text/plain; charset=utf-8", "audio/x-anything"])
def test_a_type_that_the_policy_names_is_kept_as_the_client_says_it(media_type: str) -> None:
    assert read(FileSource(bytes=BYTES), media_type=media_type).format == media_type


@pytest.mark.parametrize(
    "media_type",
    [
        *("", " ", "x", "image", "image/", "/png", "images/png", " image/png", "image/png ", "image/*", "*/*"),
        *("image/png\n", "image/png;\0", "image/p ng", "image//png", "image/png/x", "text/plain;" + "x" * 255),
        *("image/svg+xml", "text/html", "application/octet-stream", "video/mp4", "\u0130mage/png"),
    ],
)
def test_what_is_no_type_or_none_of_the_policys_is_refused(media_type: str) -> None:
    assert field_of(FileSource(bytes=BYTES), media_type=media_type) == "data.file.format"
    assert field_of(FileSource(url="https://x"), media_type=media_type) == "data.file.format"


def test_a_pattern_may_name_every_type_one_kind_or_one_type() -> None:
    assert FilePolicy(formats=("*/*",)).takes_format("application/x-thing")
    kind = FilePolicy(formats=("Video/*",))
    assert (kind.takes_format("video/mp4"), kind.takes_format("audio/mp4")) == (True, False)
    assert not FilePolicy(formats=()).takes_format("image/png")


# -- bytes -------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_what_base64_encodes_comes_out_whole(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert read_bytes(text).data == data
    assert read_bytes(f"data:image/png;base64,{text}").data == data
    assert read_bytes(base64.encodebytes(data).decode()).data == data  # with line ends


@given(st.text(alphabet=string.ascii_letters + string.digits + "+/=-_ \n\t,;:!\0é", max_size=12))
def test_bytes_are_standard_base64_or_refused(text: str) -> None:
    found = try_read(FileSource(bytes=text))
    if not isinstance(found, FileContent):
        assert found == "data.file.source.bytes"
        return
    plain = text.replace("\n", "")
    digits = plain.rstrip("=")
    assert base64.b64encode(found.data).decode()[: len(digits) - 1] == digits[:-1]
    assert len(plain) % 4 == 0


@pytest.mark.parametrize(
    "text",
    [
        *("AQIDB", "!!!!", "-_-_", "AQ ID BA ==", "é", "AQ==AQ==", "====", "A===", "null ", "AQIDBA==AA"),
        *("data:,hello", "data:text/plain,AAAA", "data:;base64", "data:image/png;base64,AAAAbase64,AQID"),
        *("data:text/html;base64,AAAA", "data:nonsense;base64,AAAA", "data:image/png;base64,!!!!", "data:"),
    ],
)
def test_bytes_that_are_no_base64_or_of_another_type_than_is_taken_are_refused(text: str) -> None:
    assert field_of(FileSource(bytes=text)) == "data.file.source.bytes"


def test_a_data_url_says_its_own_type_beside_the_clients() -> None:
    content = read_bytes("DATA:text/plain;charset=utf-8;BASE64,AQ==")
    assert (content.format, content.media_type, content.data) == ("image/png", "text/plain;charset=utf-8", b"\1")
    assert read_bytes("data:;base64,AQ==").media_type is None


def test_an_empty_file_is_a_file() -> None:
    assert read_bytes("").data == b""


@pytest.mark.parametrize("size", range(5, 12))
def test_the_bound_is_on_the_decoded_content_and_exact(size: int) -> None:
    text = base64.b64encode(bytes(size)).decode()
    assert read_bytes(text, FilePolicy(max_bytes=size)).data == bytes(size)
    assert field_of(FileSource(bytes=text), FilePolicy(max_bytes=size - 1)) == "data.file.source.bytes"


# -- addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://x", "HTTPS://x/a?b=c#d", "https://[::1]:8/x", "rtvi:abc", "https://x/%00"])
def test_a_url_of_an_allowed_scheme_is_kept_as_it_is(url: str) -> None:
    assert read_url(url).url == url
    assert read_url(url).scheme == url.partition(":")[0].lower()


@pytest.mark.parametrize(
    "url",
    [
        *("", "not a url", "x", "/etc/passwd", "../x", "C:\\x", "//x/y", "://x", ":", "https:", "rtvi:"),
        *("file:///etc/passwd", "FILE:/etc/passwd", "javascript:alert(1)", "data:text/plain;base64,AAAA"),
        *("http://x", "ftp://x", "blob:https://x", "view-source:https://x", "pipecat:abc", "https:x", "https:///x"),
        *("https://user:secret@x/", "https://user@x/", "https://@x/", "https://x@y@z/", "rtvi://a:b@c"),
        *(" https://x", "https://x ", "https://x\n", "https://x\0", "https://x\\@y", "https://é", "ht tps://x"),
        *(
            "https://x:99999/",
            "https://x:y/",
            "https://[::1/",
            "https://?x",
            "java\tscript:x",
            "https://x/" + "x" * 8192,
        ),
    ],
)
def test_any_other_url_is_refused(url: str) -> None:
    assert field_of(FileSource(url=url)) == "data.file.source.url"


@given(st.text(max_size=40).map(lambda rest: f"https:{rest}") | st.text(max_size=40))
def test_no_url_gets_through_with_credentials_blanks_or_another_scheme(url: str) -> None:
    found = try_read(FileSource(url=url))
    if not isinstance(found, FileUrl):
        assert found == "data.file.source.url"
        return
    parts = urlsplit(found.url)
    assert parts.scheme in POLICY.url_schemes
    assert parts.username is parts.password is None
    assert found.url.isascii()
    assert not any(char.isspace() or not char.isprintable() for char in found.url)


def test_the_length_of_a_url_is_bounded() -> None:
    short = FilePolicy(max_url_chars=9)
    assert read_url("https://x", short).url == "https://x"
    assert field_of(FileSource(url="https://xy"), short) == "data.file.source.url"


# -- name and size -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (None, None),
        ("", ""),
        ("a.pdf", "a.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.txt", "a b.txt"),
        ("/", ""),
        ("..", ""),
        ("a/..", ""),
        ("a\r\nb\0.txt", "a  b.txt"),
        ("Screenshot\u202f3.png", "Screenshot 3.png"),
        ("cod\u202egnp.exe", "codgnp.exe"),
        ("日本語.txt", "日本語.txt"),
        ("x" * 10_000 + ".txt", "x" * 251 + ".txt"),
    ],
)
def test_a_name_is_reduced_to_what_can_be_shown(name: str | None, shown: str | None) -> None:
    assert read(FileSource(bytes=BYTES), name=name).name == shown
    assert read(FileSource(url="https://x"), name=name).name == shown


@given(st.text(max_size=600))
def test_no_name_is_a_path_or_has_a_control_character(name: str) -> None:
    shown = read(FileSource(bytes=BYTES), name=name).name
    assert shown is not None
    assert len(shown) <= 255
    assert shown.isprintable()
    assert shown not in (".", "..")
    assert not set(shown) & set("/\\")


@pytest.mark.parametrize("size", [0, -1, MAX_PIXELS + 1, 10**30])
def test_a_size_that_is_none_is_left_out(size: int) -> None:
    content = read(FileSource(bytes=BYTES, width=size, height=480))
    assert (content.width, content.height) == (None, 480)


# -- the policy itself -------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"max_bytes": 0},
        {"max_bytes": MAX_BYTES + 1},
        {"formats": ("image",)},
        {"formats": ("*/png",)},
        {"formats": ("image/png; a=b",)},
        {"url_schemes": ("file",)},
        {"url_schemes": ("javascript",)},
        {"url_schemes": ("HTTPS",)},
        {"url_schemes": ("https:",)},
        {"url_schemes": ("",)},
    ],
)
def test_a_policy_that_makes_no_sense_is_an_error_where_it_is_made(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"max_bytes|MIME|scheme"):
        FilePolicy(**changes)  # type: ignore[arg-type]
