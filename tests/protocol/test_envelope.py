"""The carrier for JSON that nobody here reads."""

from __future__ import annotations

import copy
import pickle

import pytest

from rtvi_actors.protocol.envelope import NULL, Json


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"a":1}', "object"),
        (b" [1]", "array"),
        (b'"x"', "string"),
        (b"-1.5", "number"),
        (b"0", "number"),
        (b"true", "boolean"),
        (b"false", "boolean"),
        (b"null", "null"),
    ],
)
def test_the_kind_is_told_by_the_first_character(raw: bytes, kind: str) -> None:
    assert Json(raw).kind == kind


def test_json_is_a_value() -> None:
    assert Json(b"1") == Json(b"1")
    assert Json(b"1") != Json(b"1.0")
    assert Json(b"1") != b"1"
    assert len({Json(b"1"), Json(b"1"), NULL, Json(b"{}")}) == 3
    assert copy.copy(NULL) == NULL
    assert pickle.loads(pickle.dumps(NULL)) == NULL


def test_json_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        NULL.raw = b"1"
    with pytest.raises(AttributeError):
        del NULL.raw


def test_json_does_not_show_its_payload() -> None:
    assert "secret" not in repr(Json(b'"secret"'))
