"""The check of mirrors against a local server: what is alive, and why the others are not."""

import base64
import gzip
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from fewshot import cli
from fewshot.datasets import transfer
from fewshot.datasets.mirrors import check_mirrors, mirror_table, published_settings, without_mirror
from fewshot.datasets.releases import RELEASES, Release, RemoteFile
from fewshot.errors import ParamsError

BODY = gzip.compress(bytes(range(256)) * 4000, compresslevel=0)
PARAMS = Path(__file__).parents[2] / "params.yaml"
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()
ETAGS = {
    "linked": {"X-Linked-ETag": f'"{SHA256}"'},
    "otherlinked": {"X-Linked-ETag": '"' + "0" * 64 + '"'},
    "tagged": {"ETag": f'"md5:{MD5}"'},
    "othertagged": {"ETag": '"md5:' + "0" * 32 + '"'},
    "randomtag": {"ETag": '"' + "0" * 32 + '"'},
    "google": {"X-Goog-Hash": f"crc32c=AAAA,md5={base64.b64encode(bytes.fromhex(MD5)).decode()}"},
}


class Handler(BaseHTTPRequestHandler):
    """Behaves as the first word of the path says; counts the bytes it sends."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        word = self.path.split("/")[1]
        self.server.asked.append((word, self.headers["Range"]))
        getattr(self, f"answer_{word}", self.answer_range)(ETAGS.get(word, {}))

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.server.cut_off += 1

    def answer_range(self, headers):
        self.send(206, BODY[:512], {"Content-Range": f"bytes 0-511/{len(BODY)}", **headers})

    def answer_rangeless(self, headers):
        self.send(200, BODY, headers)

    def answer_short(self, headers):
        self.send(206, BODY[:512], {"Content-Range": f"bytes 0-511/{len(BODY) - 1}"})

    def answer_unsized(self, headers):
        self.send(206, BODY[:512], {"Content-Range": "bytes 0-511/*"})

    def answer_missing(self, headers):
        self.send(404, b"", {})

    def answer_down(self, headers):
        self.send(503, b"", {})

    def answer_empty(self, headers):
        self.send(200, b"", {})

    def answer_page(self, headers):
        self.send(200, b"<html>Quota</html>", {"Content-Type": "text/html"})

    def answer_disguised(self, headers):
        self.send(200, b"<!DOCTYPE html>Sign in", {"Content-Type": "application/octet-stream"})

    def answer_login(self, headers):
        self.send(302, b"", {"Location": "/page"})

    def answer_moved(self, headers):
        self.send(302, b"", {"Location": "/range", **ETAGS["linked"]})

    def answer_slow(self, headers):
        time.sleep(1)
        self.send(404, b"", {})


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT_S", (5, 0.3))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.cut_off = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.base = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def publish(server, monkeypatch):
    """Return a function that makes data sets, given as lists of releases of lists of words per file, the only ones."""

    def run(**datasets):
        for name in list(RELEASES):
            monkeypatch.delitem(RELEASES, name)
        for name, contents in datasets.items():
            files = [
                tuple(
                    RemoteFile(
                        f"file{i}.gz",
                        tuple(f"{server.base}/{word}" for word in words.split()),
                        md5=MD5,
                        sha256=SHA256,
                        size=len(BODY),
                        size_is_exact=True,
                    )
                    for i, words in enumerate(release)
                )
                for release in contents
            ]
            monkeypatch.setitem(RELEASES, name, tuple(Release(name, release) for release in files))
        return check_mirrors(published_settings({}))

    return run


@pytest.mark.parametrize(
    ("word", "checksum"),
    [
        ("range", "not stated"),
        ("rangeless", "not stated"),
        ("linked", "fits"),
        ("tagged", "fits"),
        ("google", "fits"),
        ("moved", "fits"),
        ("randomtag", "not stated"),
    ],
)
def test_a_living_mirror_is_recognised_from_its_first_bytes(word, checksum, publish, server):
    (row,) = publish(cub=[[word]])

    assert (row.problem, row.size, row.kind, row.checksum) == ("", len(BODY), "gzip", checksum)
    assert server.asked[0] == (word, "bytes=0-511")


def test_a_size_that_is_not_stated_is_accepted(publish):
    (row,) = publish(cub=[["unsized"]])
    assert (row.problem, row.size) == ("", None)
    assert "size not stated" in mirror_table([row])


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("missing", "404"),
        ("down", "503"),
        ("empty", "empty file"),
        ("page", "web page"),
        ("disguised", "web page"),
        ("login", "web page"),
        ("short", f"another file: {len(BODY) - 1:,} bytes, expected {len(BODY):,}"),
        ("otherlinked", "another file: its sha256 is 0000"),
        ("othertagged", "another file: its md5 is 0000"),
        ("slow", "timed out"),
    ],
)
def test_a_dead_mirror_is_reported_with_its_reason(word, reason, publish):
    rows = publish(cub=[[word]])

    assert reason in rows[0].problem
    assert without_mirror(rows) == ["cub"]
    assert f"no   file0.gz: {rows[0].problem}" in mirror_table(rows)


def test_an_unreachable_server_is_dead(monkeypatch):
    monkeypatch.setitem(RELEASES, "cub", (Release("cub", (RemoteFile("a", ("http://127.0.0.1:9/a", "ftp://x/a")),)),))
    refused, scheme = check_mirrors({"cub": published_settings({})["cub"]})
    assert "refused" in refused.problem
    assert "only http and https" in scheme.problem


def test_a_data_set_needs_every_file_of_one_release(publish):
    rows = publish(
        cub=[["range", "missing"], ["missing", "range"]],
        fc100=[["missing", "range"], ["range", "missing range"]],
        omniglot=[["missing page range"]],
    )
    assert without_mirror(rows) == ["cub"]


def test_a_temporary_failure_is_asked_again(publish, server):
    publish(cub=[["down missing"]])
    assert sorted(word for word, _ in server.asked) == ["down", "down", "missing"]


def test_an_approximate_size_tells_another_file_only_if_it_is_far_off(server, monkeypatch):
    sizes = {"fits": len(BODY) * 4 // 5, "differs": len(BODY) * 10}
    files = tuple(RemoteFile(name, (f"{server.base}/range",), size=size) for name, size in sizes.items())
    monkeypatch.setitem(RELEASES, "cub", (Release("cub", files),))

    fits, differs = check_mirrors({"cub": published_settings({})["cub"]})

    assert (fits.problem, fits.checksum) == ("", "not known")
    assert "expected about" in differs.problem


def test_the_command_asks_the_users_mirrors_too_and_fails_without_a_working_one(
    publish, server, monkeypatch, tmp_path, capsys
):
    publish(cub=[["missing"]])
    path, params = tmp_path / "params.yaml", yaml.safe_load(PARAMS.read_text(encoding="utf-8"))

    def check(word):
        params["prepare"] = {"cub": {"mirrors": [f"{server.base}/{word}"]}}
        path.write_text(yaml.safe_dump(params), encoding="utf-8")
        cli.main(["check", "--mirrors", "--params", str(path)])

    with pytest.raises(SystemExit) as stopped:
        check("page")

    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert "no working mirror: cub" in printed.err
    assert "CUB_200_2011.tgz" in printed.err
    assert f"{server.base}/page" in printed.out

    check("range")
    assert "checksum not known" in capsys.readouterr().out


def test_a_wrong_setting_is_reported_before_anything_is_asked():
    with pytest.raises(ParamsError, match=r"prepare\.cub.*mirror"):
        published_settings({"cub": {"mirror": []}})
