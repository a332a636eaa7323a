"""The search box of every chapter's demo: its answers, its page, and what it says when something is wrong."""

from __future__ import annotations

import importlib.util
import socket
import sys
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from common import demo
from common.catalogue import Catalogue
from common.demo import COLUMNS, DemoConfig, build_page, find, launch, serve, terminal_table
from common.errors import CourseError, MissingArtifact
from common.search import hits_from_rows


class Finds:
    """A searcher that finds the same products whatever it is asked, and remembers the queries."""

    def __init__(self, *ids: str) -> None:
        self.ids, self.asked = list(ids), []

    def search(self, queries, k, *, allowed=None, exclude=None):
        self.asked += queries
        return hits_from_rows([(self.ids, np.linspace(1, 0.5, len(self.ids)))] * len(queries), k)


@pytest.fixture
def catalogue(tmp_path) -> Catalogue:
    """Three products: `a` with a picture, `b` with hardly anything, `c` whose title is markup."""
    Image.new("RGB", (900, 300), (200, 0, 0)).save(tmp_path / "a.png")
    columns = {"title": ["A red rug", None, "[bold]<b>"], "brand": ["Corbo", None, None]}
    columns |= {"category_path": ["Home > Rugs", None, None], "price": [9.5, None, None]}
    return Catalogue.from_tables(
        "toy",
        products=pd.DataFrame({"product_id": list("abc")} | columns),
        images=pd.DataFrame({"product_id": ["a"], "path": [str(tmp_path / "a.png")], "position": [0]}),
    ).save(tmp_path / "shop")


@pytest.fixture
def gradio(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    return demo.import_gradio()


def search_of(page):
    """The function behind the page's button."""
    return next(function.fn for function in page.fns.values() if function.api_name == "search")


def printed(table) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_what_is_found_is_a_table(catalogue):
    found = find(catalogue, {"one": Finds("b", "a")}, "rug", "one", 5)
    assert found.columns.tolist() == list(COLUMNS)
    assert found["product_id"].tolist() == ["b", "a"] and found["rank"].tolist() == [1, 2]
    assert found["title"].tolist() == ["", "A red rug"] and found["score"].tolist() == [1.0, 0.5]
    assert len(find(catalogue, {"one": Finds("b", "a")}, "rug", "one", 1)) == 1
    nothing = find(catalogue, {"one": Finds()}, "rug", "one", 5)
    assert nothing.empty and nothing.columns.tolist() == list(COLUMNS)


def test_the_terminal_shows_products_and_survives_markup(catalogue, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("COLUMNS", "160")
    weak, strong = Finds("a"), Finds("c", "b", "a")
    config = DemoConfig("a [bold]rug", catalogue=str(catalogue.folder))
    serve(lambda *_: {"weak": weak, "strong": strong}, config)
    out = capsys.readouterr().out
    assert "a [bold]rug   (strong)" in out and "[bold]<b>" in out and "Rugs" in out and "9.50" in out
    serve(lambda *_: {"weak": weak, "strong": strong}, DemoConfig("two", system="weak", catalogue=config.catalogue))
    assert (weak.asked, strong.asked) == (["two"], ["a [bold]rug"])
    assert "nothing found" in printed(terminal_table(find(catalogue, {"one": Finds()}, "q", "one", 3), "t"))


def test_bad_questions_are_course_errors(catalogue):
    for query, system, k, message in (
        ("rug", "best", 3, "no system 'best'; there are: one"),
        (" \n", "one", 3, "query is empty"),
    ):
        with pytest.raises(CourseError, match=message):
            find(catalogue, {"one": Finds("a")}, query, system, k)

    def not_built(*_):
        raise MissingArtifact("no index yet.\nMake it with: python -m chapter.reindex")

    with pytest.raises(MissingArtifact, match=r"python -m chapter\.reindex"):
        serve(not_built, DemoConfig("rug", catalogue=str(catalogue.folder)))


def test_a_missing_gradio_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    spec = importlib.util.spec_from_file_location("imported_again", demo.__file__)
    again = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "imported_again", again)  # dataclasses look their module up
    spec.loader.exec_module(again)
    with pytest.raises(CourseError, match="pip install gradio"):
        serve(None, DemoConfig(catalogue="no such catalogue"))  # said before anything is loaded


def test_the_page_answers_with_pictures_and_a_table(catalogue, gradio):
    page = build_page(catalogue, {"one": Finds("a", "b")})
    assert not page.analytics_enabled
    gallery, table = search_of(page)("rug", "one", 3)
    assert table["product_id"].tolist() == ["a", "b"]
    (red, first), (grey, second) = gallery
    assert (first, second) == ("1. A red rug · 1.00", "2. b · 0.50")
    assert red.getpixel((0, 0)) == (200, 0, 0) and max(red.size) <= 3 * demo.SIDE
    assert grey.getpixel((0, 0)) == demo.PALE == demo._thumbnail(catalogue.folder / "gone.png").getpixel((0, 0))


def test_errors_are_messages_on_the_page(catalogue, gradio):
    ask = search_of(build_page(catalogue, {"one": Finds("a")}))
    for values, message in (((" ", "one", 3), "query is empty"), (("rug", "<img src=x>", 3), "&lt;img src=x&gt;")):
        with pytest.raises(gradio.Error) as caught:
            ask(*values)
        assert message in caught.value.message and "<img" not in caught.value.message


def test_the_command_serves_the_page_on_this_machine_alone(catalogue, gradio, monkeypatch):
    served = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda page, **options: served.append((page, options)))
    for share in (True, False):
        serve(lambda *_: {"one": Finds("a")}, DemoConfig(catalogue=str(catalogue.folder), share=share, port=7999))
        page, options = served.pop()
        assert search_of(page) and options["server_name"] == "127.0.0.1" and options["server_port"] == 7999
        assert options["share"] is share and "allowed_paths" not in options


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning:gradio")  # gradio's own queue
def test_the_page_is_served_and_closed(catalogue, gradio, tmp_path):
    """Over HTTP as a browser would: the page, a search, and no file of the machine's."""
    from gradio_client import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page, address = build_page(catalogue, {"one": Finds("b", "a")}), f"http://127.0.0.1:{port}/"
    threading.Thread(target=launch, args=(page,), kwargs={"port": port}, daemon=True).start()
    try:
        while not getattr(page, "local_url", None):
            time.sleep(0.05)
        assert httpx.get(address).status_code == 200
        secret = catalogue.folder / "products.parquet"
        assert secret.is_file() and httpx.get(f"{address}gradio_api/file={secret}").status_code == 403
        client = Client(address, verbose=False, analytics_enabled=False, download_files=tmp_path / "client")
        gallery, table = client.predict("rug", "one", 3, api_name="/search")
        assert [row[2] for row in table["data"]] == ["b", "a"]
        assert [shown["caption"] for shown in gallery] == ["1. b · 1.00", "2. A red rug · 0.50"]
        with pytest.raises(Exception, match="query is empty"):
            client.predict(" ", "one", 3, api_name="/search")
        with pytest.raises(CourseError, match=f"port {port} is taken"):
            launch(build_page(catalogue, {"one": Finds()}), port=port)
    finally:
        page.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
