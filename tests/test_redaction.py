from __future__ import annotations

import string
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rtvi_actors as rtvi
from rtvi_actors.redaction import REDACTED, redact
from tests.session_kit import calling, of_type

HEX: Final = "0123456789abcdef" * 4
WORD: Final = "Zm9vYmFyYmF6cXV4eHl6enkwMTIzNDU2Nzg5YWJjZGVmZ2hp" * 3
JWT: Final = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl-_c2lnbmF0dXJl"
PEM: Final = f"-----BEGIN RSA PRIVATE KEY-----\n{WORD}\n{WORD}==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # Recorded: pipecat-ai 1.14.0, errors/secret/*
        ("api_key=sk-abcdefghijklmnopqrstuvwxyz123456", "api_key=[REDACTED]"),
        ("https://user:pass@example.com/x", "https://user:[REDACTED]@example.com/x"),
        (f"https://x/?X-Amz-Signature={HEX}", "https://x/?X-Amz-Signature=[REDACTED]"),
        ("token: 1234567890abcdef1234567890abcdef", "token: [REDACTED]"),
        ("plain text", "plain text"),
    ],
)
def test_what_the_peer_masks_is_masked_as_it_does(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "secret",
    [
        f"sk-{WORD[:48]}",
        f"sk-ant-api03-{WORD[:95]}-AA",
        f"sk_live_{WORD[:24]}",
        f"rk_test_{WORD[:24]}",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        f"ABSK{WORD}",
        f"bedrock-api-key-{WORD}",
        f"AIza{WORD[:35]}",
        f"ya29.{WORD[:40]}",
        f"ghp_{WORD[:36]}",
        f"github_pat_{WORD[:82]}",
        f"glpat-{WORD[:20]}",
        f"xoxb-1234567890-{WORD[:24]}",
        f"xapp-1-A0123-{HEX}",
        f"hf_{string.ascii_letters[:34]}",
        f"gsk_{WORD[:52]}",
        f"pplx-{WORD[:48]}",
        f"SK{HEX[:32]}",
        f"SG.{WORD[:22]}.{WORD[:43]}",
        JWT,
        PEM,
        f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n{WORD}\n-----END PGP PRIVATE KEY BLOCK-----",
    ],
    ids=lambda secret: secret[:12],
)
def test_a_format_that_nothing_else_has_is_masked_wherever_it_stands(secret: str) -> None:
    assert redact(f"401 for {secret} (rejected)") == f"401 for {REDACTED} (rejected)"
    assert redact(f'"{secret}"') == f'"{REDACTED}"'


def test_a_private_key_that_is_cut_short_is_masked_to_the_end() -> None:
    assert redact(f"bad key {PEM[:60]}") == f"bad key {REDACTED}"


def test_keys_that_are_glued_to_each_other_are_masked_to_the_last() -> None:
    glued = f"SK{HEX[:32]}A3TA{'A' * 16}{JWT} ya29.{WORD[:40]}"
    assert redact(f"bad {glued}") == f"bad {REDACTED} {REDACTED}"
    assert redact(f"{PEM}{JWT}") == REDACTED


def test_a_slack_hooks_path_is_its_secret() -> None:
    url = "https://hooks.slack.com/services/"
    assert redact(f"POST {url}T00000000/B00000000/{WORD[:24]} failed") == f"POST {url}{REDACTED} failed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc", "Authorization: Bearer [REDACTED]"),
        ("authorization=Token abc, next", "authorization=Token [REDACTED], next"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [REDACTED]"),
        ("{'Authorization': 'Bearer abc', 'x': 1}", "{'Authorization': '[REDACTED]', 'x': 1}"),
        ('{"api_key": "a \'b", "n": 1}', '{"api_key": "[REDACTED]", "n": 1}'),
        (r"{\"token\": \"abc\", \"n\": 1}", r"{\"token\": \"[REDACTED]\", \"n\": 1}"),
        ("apiKey=abc&x=1", "apiKey=[REDACTED]&x=1"),
        ("X-API-KEY: abc", "X-API-KEY: [REDACTED]"),
        ("aws_secret_access_key = abc/def+ghi", "aws_secret_access_key = [REDACTED]"),
        ("PASSWORD := 'a b c' and more", "PASSWORD := '[REDACTED]' and more"),
        ("client_secret => abc", "client_secret => [REDACTED]"),
        ("https://h/f?sv=1&sig=a%2Fb&se=2", "https://h/f?sv=1&sig=[REDACTED]&se=2"),
        ("https://h/f?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE/2024/s3", "https://h/f?X-Amz-Credential=[REDACTED]"),
        ("Cookie: session=abc; theme=dark", "Cookie: [REDACTED]; theme=dark"),
        ("error: Authorization: Bearer a b", "error: Authorization: Bearer [REDACTED] b"),
        ("GET url=https://h/?token=abc", "GET url=https://h/?token=[REDACTED]"),
        ("api_key: token: abc", "api_key: token: [REDACTED]"),
        ("error: key = abc", "error: key = [REDACTED]"),
        ("error: authorization: token : abc", "error: authorization: token : [REDACTED]"),
        ("APIKey=abc OLDTokens=2", "APIKey=[REDACTED] OLDTokens=2"),
        ("token='cut sho", "token='[REDACTED] sho"),
        ("redis://:hunter2@host:6379/0", "redis://:[REDACTED]@host:6379/0"),
        ("postgresql+asyncpg://me:p@ss@db/x?a=b", "postgresql+asyncpg://me:[REDACTED]@db/x?a=b"),
        ("https://token:abc@host/x", "https://token:[REDACTED]@host/x"),
        ("the server said Bearer abc.def.0123456789 is bad", "the server said Bearer [REDACTED] is bad"),
    ],
)
def test_a_value_is_masked_where_its_name_or_place_says_that_it_is_secret(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "KeyError: 'city'",
        "jwt.exceptions.InvalidTokenError: expired",
        "max_tokens=5, keyterms: a b, monkey: banana",
        "Bearer authentication failed",
        "basic understanding: none",
        "the token is missing",
        "token:",
        "token: , next",
        "12:30:01 at host:80",
        "https://example.com:8443/a@b?c=d",
        "mail me@example.com",
        "task-force sk-short AKIA eyJ.a.b",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@given(st.text(string.ascii_lowercase + " .,;()\n", max_size=200))
def test_prose_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


PIECES: Final = (
    *("key", "token", "api_key", "Authorization", "x", "user", "Bearer ", "Basic ", "://", "https://", "@", REDACTED),
    *("=", ":", ": ", " => ", ":=", '"', "'", "\\", '\\"', "&", "?", ",", ";", " ", "\n", "[", "]", "{", "}", "/", "."),
    *("sk-" + WORD[:20], "AKIAIOSFODNN7EXAMPLE", JWT, "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
    *("abc", "abcdefgh0123", "eyJ", "-", "SK" + HEX[:32], "\ud800", "\x00", "\N{KELVIN SIGN}ey"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=24).map("".join) | st.text(max_size=100))
@example('token="x\ntoken=')
@example(f"SK{HEX[:32]}AKIAIOSFODNN7EXAMPLE{JWT}")
@example("KEY:=Basic Authorization=hf_")
@example(f"bearer Authorizationxoxb-{HEX} => key :token")
def test_masking_twice_is_masking_once_and_no_text_is_too_odd(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.sampled_from(("\n", " ")))
def test_a_known_format_never_survives(around: str, space: str) -> None:
    secret = f"gsk_{'Q' * 52}"
    assert secret not in redact(f"{around}{space}{secret}{space}{around}")


UNITS: Final = (
    *("a=", "a.", "key=", 'key="', "key='\\", 'key=\\"key=\\\\"', "key: ", "key:" + " " * 99, "key" + " " * 99, "//"),
    *("eyJ-", "eyJaaaaaaaa.", "sk-", "AKIA", "SG." + "a" * 16, "A", "Aa", "\\", "[REDACTED]", "key=[REDACTED]", " "),
    *("://a:", "a:b@", "://a:b@", "Bearer ", "bearer a1", "bearer aaaaaaaaaaaaaa ", "bearer\t", "-----BEGIN "),
    *("-----BEGIN PRIVATE KEY-----", "key='a key=\"b\n", "gh", "xoxb-", "bedrock-api-key-", "key=x://", "key='x: "),
)


@pytest.mark.parametrize("unit", UNITS)
def test_the_work_grows_with_the_text_and_no_faster(unit: str) -> None:
    """Half a mebibyte, which would take minutes if one start scanned what another had; as a name's words, too."""
    text = unit * ((1 << 19) // len(unit)) + "a=b"
    assert len(redact(text)) >= len(REDACTED)


# -- where it is used --------------------------------------------------------------------------


@pytest.mark.anyio
async def test_errors_are_masked_and_error_responses_are_the_applications_own_words() -> None:
    """As recorded of pipecat-ai 1.14.0 (vectors/README.md)."""

    class Leaky(rtvi.Bot):
        async def on_client_message(self, message: rtvi.ClientMessage) -> None:
            self.send_error(f"bad api_key={HEX}")
            self.error(f"bad token: {HEX}", fatal=False)
            self.send_error_response(message, "bad api_key=abc")

    async with calling(Leaky()) as call:
        await call.ask("x")
        heard = await call.heard()
    errors = [wire["data"]["error"] for wire in of_type(heard, "error")]
    assert errors == [f"bad api_key={REDACTED}", f"bad token: {REDACTED}"]
    assert [wire["data"]["error"] for wire in of_type(heard, "error-response")] == ["bad api_key=abc"]
