"""Secrets in texts that leave the process: what an SDK's exception quotes should say what failed, not with which key.

Three kinds are found: formats that nothing else has (`_FORMATS`), passwords in URLs, and values whose name says that
they are secret (``api_key=…``, ``Authorization: Bearer …``, ``?X-Amz-Signature=…``). The mask, and that the name, the
scheme and the quotes around a value stay, is pipecat-ai 1.14.0's (recorded: ``errors/secret/*``).

A mask is no promise: a secret without a known format or name passes. Every pattern is linear in the text (possessive
runs; no start inside a run that another start has scanned), for the text may be a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["REDACTED", "redact"]

REDACTED: Final = "[REDACTED]"

_FORMATS: Final = re.compile(
    r"""
    (?: (?=-----BEGIN) | (?<![\w-])(?=eyJ) | \b(?!eyJ) )                  # where one may begin; more may be glued to it
    (?:
        -----BEGIN\ [A-Z0-9\ ]{0,64}?PRIVATE\ KEY(?:\ BLOCK)?-----        # PEM, OpenPGP: to its end, or the text's
          (?s:.*?)(?:-----END\ [A-Z0-9\ ]{0,64}?PRIVATE\ KEY(?:\ BLOCK)?-----|\Z)
      | eyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+                                # JSON Web Token
      | [sr]k[-_][\w-]{20,}+                                              # OpenAI, Anthropic, Stripe, ElevenLabs
      | A(?:KIA|SIA|BIA|CCA|3T[A-Z0-9])[A-Z0-9]{16,}+                     # AWS access key ids
      | ABSK[A-Za-z0-9+/=]{100,}+ | bedrock-api-key-[\w+/=-]++            # Amazon Bedrock
      | AIza[\w-]{35,}+ | ya29\.[\w-]{20,}+                               # Google
      | gh[pousr]_[A-Za-z0-9]{36,}+ | github_pat_\w{60,}+ | glpat-[\w-]{20,}+
      | xox[a-z]-[A-Za-z0-9-]{10,}+ | xapp-\d-[A-Za-z0-9-]{10,}+          # Slack
      | (?<=hooks\.slack\.com/services/)[\w/]{20,}+
      | (?:hf|api_org)_[A-Za-z]{30,}+                                     # Hugging Face
      | (?:gsk|pplx|xai|r8|npm)[-_][A-Za-z0-9]{30,}+                      # Groq, Perplexity, xAI, Replicate, npm
      | SK[0-9a-fA-F]{32}                                                 # Twilio
      | SG\.[\w-]{16,}+\.[\w-]{16,}+                                      # SendGrid
    )++
    """,
    re.VERBOSE,
)

_SCHEME: Final = r"(?i:bearer|basic|digest|negotiate|token|api-token|key|aws4-hmac-sha256)"

_CREDENTIALS: Final = re.compile(r"(?P<kept>\b(?i:bearer|basic)\s++)(?=\S*?[0-9=]|\S*?[a-z][A-Z])[\w.~+/=-]{12,}+")
"""Of an Authorization header whose name is not there. A word of prose is no such thing."""

_URL_PASSWORD: Final = re.compile(r"(?P<kept>://[^\s/:@]*+:)[^\s/]+(?=@)")
"""Up to the last @ of the authority."""

_NAMED: Final = re.compile(
    rf"""
      (?<![\w.-]) (?<!//) (?P<name>[A-Za-z][\w.-]*+) (?:\\{{0,3}}["'])?   # quoted as JSON or a repr does
      \s*+ (?: := | => | [:=] ) \s*+
      (?:{_SCHEME}\s++(?![:=]))?                                            # not a name of its own: key = …
    """,
    re.VERBOSE,
)
_VALUE: Final = re.compile(
    r"""
      (?P<open>\\{0,3}["']) .*? (?P<close>(?P=open))
    | (?P<half>(?:\\{0,3}["'])?) (?: \[REDACTED\] | [^\s,;&"'}\])\[\\] | \\(?!["']) )++
    """,
    re.VERBOSE,
)
"""Quoted, or up to the next delimiter; a quote that does not close (a text cut short) is none."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]++")
_SECRET_WORDS: Final = frozenset(
    (
        *("auth", "authorization", "authtoken", "jwt", "sig", "signature", "token", "accesstoken", "cookie"),
        *("key", "accesskey", "apikey", "privatekey", "secretkey", "secret", "clientsecret"),
        *("credential", "credentials", "creds", "passphrase", "passwd", "password", "pwd"),
        "uploadid",  # of Google's resumable uploads, which it authorises
    )
)
"""One of them as a word of a name makes its value a secret: ``x-api-key``, not ``keyterms``, nor ``max_tokens``."""
_NO_SECRET: Final = frozenset(("error", "exception", "warning"))
"""Last words of names that are followed by an explanation: ``KeyError: 'city'``."""


def redact(text: str) -> str:
    """The text with every secret that is recognised replaced by `REDACTED`.

    Twice is as once, but where a mask stands for what had kept a text from being a URL with a password: that is masked
    then.
    """
    text = _FORMATS.sub(REDACTED, text)
    text = _URL_PASSWORD.sub(rf"\g<kept>{REDACTED}", text)
    text = _CREDENTIALS.sub(rf"\g<kept>{REDACTED}", text)
    return "".join(_without_named(text))


def _without_named(text: str) -> Iterator[str]:
    """The text in pieces, the values of secret names masked. Other values are read on: they may hold pairs."""
    done = 0
    found = _NAMED.search(text)
    while found is not None:
        at = found.end()
        if _is_secret(found["name"]) and not _is_named(text, at) and (value := _VALUE.match(text, at)):
            yield text[done:at]
            yield f"{value['open'] or value['half']}{REDACTED}{value['close'] or ''}"
            at = done = value.end()
        found = _NAMED.search(text, at)
    yield text[done:]


def _is_named(text: str, at: int) -> bool:
    """Whether what stands there is itself the name of a secret: ``api_key: token: …``."""
    inner = _NAMED.match(text, at)
    return inner is not None and _is_secret(inner["name"])


def _is_secret(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _NO_SECRET:
        return False
    return "".join(words) in _SECRET_WORDS or not _SECRET_WORDS.isdisjoint(words)
