from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from rtvi_actors.web import pages

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::starlette.exceptions.StarletteDeprecationWarning"
)

IDS = ("connect", "disconnect", "text", "send", "log", "tree", "status", "mic", "interrupt", "conversation")


def source(name: str) -> str:
    return files("rtvi_actors.web").joinpath(name).read_text()


def test_the_page_and_what_it_loads_are_served_with_their_types_and_a_policy() -> None:
    client = TestClient(Starlette(routes=pages.page_routes()))
    for path, media_type in {"/": "text/html", "/app.js": "text/javascript", "/style.css": "text/css"}.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for name in ("index.html", "app.js", "style.css"):
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", source(name)))
        assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("element", IDS)
def test_the_page_has_the_elements_that_tests_find(element: str) -> None:
    assert f'id="{element}"' in source("index.html")


def test_every_element_that_the_script_asks_for_exists() -> None:
    wanted = set(re.findall(r"\$\(\"([a-z-]+)\"\)", source("app.js")))
    assert wanted
    assert wanted <= set(re.findall(r'id="([a-z-]+)"', source("index.html")))


def test_the_policy_forbids_what_the_page_does_not_use() -> None:
    assert "style=" not in source("index.html")
    assert "innerHTML" not in source("app.js")


def test_the_prebuilt_client_is_served_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("prebuilt")
    monkeypatch.setattr(pages, "prebuilt_directory", lambda: tmp_path)
    client = TestClient(Starlette(routes=pages.prebuilt_routes()))
    assert client.get("/client").text == "prebuilt"
    assert client.get("/client/").text == "prebuilt"


def test_without_the_prebuilt_client_the_answer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "prebuilt_directory", lambda: None)
    client = TestClient(Starlette(routes=pages.prebuilt_routes()))
    for path in ("/client", "/client/", "/client/assets/x.js"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "rtvi-actors[prebuilt]" in answer.json()["detail"]


def test_an_installation_without_the_built_page_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda _name: None)
    assert pages.prebuilt_directory() is None
