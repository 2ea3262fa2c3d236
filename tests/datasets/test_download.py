"""Downloads from a local web server that truncates, resets, redirects, sends web pages or ignores ranges."""

import hashlib
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from fewshot.datasets import DATASETS, transfer
from fewshot.datasets import download as download_module
from fewshot.datasets.cifar_fs import CifarFs
from fewshot.datasets.download import download
from fewshot.datasets.prepare import build_store
from fewshot.datasets.releases import MANUAL_STEPS, RELEASES, Release, RemoteFile
from fewshot.datasets.transfer import Checksum, fetch_file
from fewshot.errors import DataError, ParamsError, ResourceError

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
OTHER = np.random.default_rng(1).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """Behaves as the first word of the path says; the server records the requests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        word = self.path.split("/")[1].split("?")[0].removesuffix(".zip")
        self.server.requests.append((word, self.headers.get("Range")))
        self.seen = sum(entry[0] == word for entry in self.server.requests)
        getattr(self, f"answer_{word}", self.answer_missing)()
        self.close_connection = True

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Connection": "close", "Content_Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def range_start(self):
        asked = self.headers.get("Range")
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0

    def part(self, stop, etag='"one"', body=BODY, **headers):
        """Send from the requested byte, but stop early."""
        start = self.range_start() if self.headers.get("If-Range") == etag else 0
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send(status, body[start:stop], Content_Length=len(body) - start, ETag=etag, **headers)

    def answer_good(self):
        self.send(200, BODY)

    def answer_file(self):
        self.send(200, self.server.files[self.path.split("/", 2)[2]])

    def answer_truncating(self):
        self.part(100_000 * self.seen)

    def answer_resetting(self):
        self.part(None if self.seen > 2 else 100_000 * self.seen)
        if self.seen <= 2:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def answer_rangeless(self):
        self.send(200, BODY if self.seen > 1 else BODY[:100_000], Content_Length=len(BODY), ETag='"one"')

    def answer_changing(self):
        self.part(100_000) if self.seen == 1 else self.part(None, etag='"two"')

    def answer_weak(self):
        self.part(100_000, etag='W/"one"') if self.seen == 1 else self.send(200, BODY)

    def answer_shifted(self):
        if self.seen == 1:
            self.part(100_000)
        else:
            self.send(206, BODY[50_000:], Content_Range="bytes 50000-299999/300000")

    def answer_unsatisfiable(self):
        if self.seen == 1:
            self.part(100_000)
        elif self.headers.get("Range"):
            self.send(416)
        else:
            self.send(200, BODY)

    def answer_always(self):
        self.send(200, BODY[:1000], Content_Length=len(BODY))

    def answer_chunked(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        whole = self.seen > 1
        for start in range(0, len(BODY) if whole else 100_000, 50_000):
            self.wfile.write(b"%x\r\n" % 50_000 + BODY[start : start + 50_000] + b"\r\n")
        self.wfile.write(b"0\r\n\r\n" if whole else b"")

    def answer_busy(self):
        self.send(200, BODY) if self.seen > 2 else self.send(503, Retry_After="0")

    def answer_limited(self):
        self.send(200, BODY) if self.seen > 1 else self.send(429)

    def answer_down(self):
        self.send(500)

    def answer_forbidden(self):
        self.send(403)

    def answer_missing(self):
        self.send(404)

    def answer_page(self):
        self.send(200, b"<html>Quota exceeded</html>", Content_Type="text/html; charset=utf-8")

    def answer_disguised(self):
        self.send(200, b"\n<!DOCTYPE html><html>Sign in</html>", Content_Type="application/octet-stream")

    def answer_redirect(self):
        self.send(302, Location="/good")

    def answer_loop(self):
        self.send(302, Location="/loop")

    def answer_toschemes(self):
        self.send(302, Location="file:///etc/passwd")

    def answer_empty(self):
        self.send(200)

    def answer_other(self):
        self.send(200, OTHER)

    def answer_encoded(self):
        self.send(200, BODY, Content_Encoding="gzip")

    def answer_enormous(self):
        self.send(200, b"x", Content_Length=1 << 60)


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.requests, http.files = [], {}
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        base = f"http://127.0.0.1:{http.server_address[1]}"
        yield SimpleNamespace(base=base, requests=http.requests, files=http.files)
        http.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Return a function that fetches from addresses named by the server's behaviours, 10,000 bytes at a time."""
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 10_000)

    def run(*words, checksum=SHA256):
        addresses = [word if "://" in word else f"{server.base}/{word}" for word in words]
        return fetch_file(addresses, tmp_path / "raw" / "data.bin", checksum, pause_s=0)

    return run


def leftovers(tmp_path):
    return sorted(path.name for path in (tmp_path / "raw").iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize(
    "word",
    ["good", "truncating", "resetting", "rangeless", "changing", "weak", "unsatisfiable", "chunked", "busy", "limited",
     "redirect"],
)  # fmt: skip
def test_file_arrives_complete(word, fetch, tmp_path):
    fetch(word)

    assert (tmp_path / "raw" / "data.bin").read_bytes() == BODY
    assert leftovers(tmp_path) == ["data.bin"]


def test_truncated_transfer_is_resumed(fetch, server):
    fetch("truncating")

    assert server.requests == [("truncating", None), ("truncating", "bytes=100000-"), ("truncating", "bytes=200000-")]


def test_broken_transfer_of_an_earlier_run_is_resumed(fetch, server, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with pytest.raises(DataError):
        fetch("truncating")
    with pytest.raises(DataError):
        fetch("truncating")
    fetch("truncating")

    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(fetch, server):
    fetch("changing")

    assert server.requests[1] == ("changing", "bytes=100000-")


@pytest.mark.parametrize(
    ("word", "reason", "requests"),
    [
        ("missing", "404", 1),
        ("forbidden", "403", 1),
        ("page", "web page", 1),
        ("disguised", "web page", 1),
        ("empty", "empty file", 1),
        ("other", "damaged or another file", 1),
        ("encoded", "encoding gzip", 1),
        ("shifted", "bytes from 100000 were requested", 2),
        ("toschemes", "No connection adapters", 4),
        ("down", "500", 4),
        ("always", "broke|IncompleteRead", 4),
    ],
)
def test_unusable_address_is_abandoned_with_its_reason(word, reason, requests, fetch, server, tmp_path):
    with pytest.raises(DataError, match=reason):
        fetch(word)

    assert len(server.requests) == requests
    assert "data.bin" not in leftovers(tmp_path)


def test_endless_redirects_are_abandoned(fetch):
    with pytest.raises(DataError, match="redirects"):
        fetch("loop")


@pytest.mark.parametrize("address", ["ftp://example.invalid/a", "file:///etc/passwd", "http://127.0.0.1:9/a"])
def test_unsupported_and_unreachable_addresses_are_abandoned(address, fetch):
    with pytest.raises(DataError, match=r"only http and https|Connection refused"):
        fetch(address)


def test_mirrors_are_tried_in_order_and_every_failure_is_named(fetch, server):
    assert fetch("missing", "page", "down", "good") == f"{server.base}/good"
    assert list(dict.fromkeys(word for word, _ in server.requests)) == ["missing", "page", "down", "good"]


def test_when_all_mirrors_fail_each_reason_is_reported(fetch):
    with pytest.raises(DataError, match=r"(?s)missing: .*404.*page: .*web page"):
        fetch("missing", "page")


def test_a_transfer_is_not_continued_from_another_mirror(fetch, server):
    fetch("always", "good")

    assert server.requests[-1] == ("good", None)


def test_an_existing_file_is_not_fetched_again(fetch, server):
    fetch("good")
    assert fetch("good") == "already there"
    assert len(server.requests) == 1


def test_an_existing_damaged_file_is_refused_and_kept(fetch, tmp_path):
    fetch("good")
    (tmp_path / "raw" / "data.bin").write_bytes(OTHER)

    with pytest.raises(DataError, match="Delete it to fetch it again"):
        fetch("good")
    assert (tmp_path / "raw" / "data.bin").read_bytes() == OTHER


def test_without_a_checksum_a_short_file_is_still_refused(fetch):
    with pytest.raises(DataError, match=r"broke|IncompleteRead"):
        fetch("always", checksum=None)


def test_a_full_disk_is_reported_before_anything_is_written(fetch, tmp_path):
    with pytest.raises(ResourceError, match="free some space"):
        fetch("enormous")
    assert "data.bin" not in leftovers(tmp_path)


def test_two_processes_fetch_a_file_once(fetch, server):
    threads = [threading.Thread(target=fetch, args=("good",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(server.requests) == 1


def test_a_file_in_place_of_the_folder_is_reported(fetch, tmp_path):
    (tmp_path / "raw").write_text("a file")
    with pytest.raises(ResourceError, match="cannot write"):
        fetch("good")


@pytest.fixture
def cifar_fs(server, make, monkeypatch, tmp_path):
    """Settings of cifar_fs with the small archive on the local server as the only built-in release."""
    archive = make.tar(tmp_path / "cifar-100-python.tar.gz", make.cifar100(), "w:gz").read_bytes()
    server.files["cifar-100-python.tar.gz"] = archive
    file = RemoteFile(
        "cifar-100-python.tar.gz",
        (f"{server.base}/missing", f"{server.base}/file/cifar-100-python.tar.gz"),
        md5=hashlib.md5(archive).hexdigest(),
    )
    monkeypatch.setitem(RELEASES, "cifar_fs", (Release("cifar100", (file,)),))
    monkeypatch.setattr(CifarFs, "class_lists", make.lists)
    monkeypatch.setattr(transfer, "PAUSE_S", 0)
    return DATASETS["cifar_fs"].settings


def test_data_set_is_downloaded_checked_and_prepared(cifar_fs, tmp_path):
    store = build_store("cifar_fs", cifar_fs(), tmp_path / "raw", tmp_path / "store")

    assert store.split("train").class_names == ("bear", "dog", "apple")
    assert store.split("test").images.shape == (6, 32, 32, 3)
    assert "md5" in store.record["provenance"]["files"][0]["checked"]
    assert (tmp_path / "raw" / "cifar100" / "cifar-100-python.tar.gz").is_file()


def test_user_mirrors_come_first(cifar_fs, server, tmp_path):
    download("cifar_fs", cifar_fs(mirrors=[f"{server.base}/file/"]), tmp_path / "raw")

    assert [word for word, _ in server.requests] == ["file"]


@pytest.fixture
def without_checksum(cifar_fs, monkeypatch):
    """Settings of cifar_fs whose only release has no published checksum."""
    (release,) = RELEASES["cifar_fs"]
    file = RemoteFile(release.files[0].name, release.files[0].addresses[1:])
    monkeypatch.setitem(RELEASES, "cifar_fs", (Release("cifar100", (file,)),))
    return cifar_fs


def test_the_first_download_without_a_published_checksum_is_recorded(without_checksum, server, tmp_path):
    store = build_store("cifar_fs", without_checksum(), tmp_path / "raw", tmp_path / "store")

    sha256 = hashlib.sha256(server.files["cifar-100-python.tar.gz"]).hexdigest()
    record = tmp_path / "raw" / "cifar100" / ".cifar-100-python.tar.gz.sha256"
    assert record.read_text() == f"{sha256}  cifar-100-python.tar.gz\n"
    assert f"sha256 {sha256} (as at the first download" in store.record["provenance"]["files"][0]["checked"]


def test_a_file_that_differs_from_its_first_download_is_refused(without_checksum, server, make, tmp_path):
    (path,) = download("cifar_fs", without_checksum(), tmp_path / "raw")
    path.unlink()
    server.files[path.name] = make.tar(
        tmp_path / "other.tgz", make.cifar100(make.images(30, 32, 1)), "w:gz"
    ).read_bytes()

    with pytest.raises(DataError, match=r"as at the first download, recorded in .*sha256; delete that"):
        download("cifar_fs", without_checksum(), tmp_path / "raw")
    assert download("cifar_fs", without_checksum(sha256="none"), tmp_path / "raw") == [path]
    with pytest.raises(DataError, match="as at the first download"):
        download("cifar_fs", without_checksum(), tmp_path / "raw")


def test_a_mirror_may_be_another_archive(cifar_fs, server, tmp_path):
    server.files["copy.tgz"] = server.files["cifar-100-python.tar.gz"]
    files = download("cifar_fs", cifar_fs(mirrors=[f"{server.base}/file/copy.tgz"]), tmp_path / "raw")

    assert files == [tmp_path / "raw" / "cifar_fs" / "copy.tgz"]


def test_a_download_with_another_checksum_than_the_user_gave_is_refused(cifar_fs, tmp_path):
    with pytest.raises(DataError, match="sha256"):
        download("cifar_fs", cifar_fs(sha256="0" * 64), tmp_path / "raw")


def test_failure_lists_the_steps_to_do_by_hand(cifar_fs, server, monkeypatch, tmp_path):
    server.files["cifar-100-python.tar.gz"] = b"<html>no</html>"
    with pytest.raises(DataError, match=r"(?s)By hand: fetch .*prepare\.cifar_fs\.path"):
        download("cifar_fs", cifar_fs(), tmp_path / "raw")


def test_given_path_is_checked_against_the_published_checksum(cifar_fs, make, tmp_path):
    (tmp_path / "given").mkdir()
    given = make.tar(tmp_path / "given" / "cifar-100-python.tar.gz", {"a": b"x"}, "w:gz")
    with pytest.raises(DataError, match=r"expected .*set its sha256 \(or none\)"):
        download("cifar_fs", cifar_fs(path=str(given)), tmp_path / "raw")

    own = hashlib.sha256(given.read_bytes()).hexdigest()
    for accepted in ("none", own, {"cifar-100-python.tar.gz": own}):
        assert download("cifar_fs", cifar_fs(path=str(given), sha256=accepted), tmp_path / "raw") == [given]


def test_a_file_without_a_known_checksum_must_stay_as_it_was_fetched(cifar_fs, server, monkeypatch, tmp_path):
    archive = server.files["cifar-100-python.tar.gz"]
    monkeypatch.setitem(RELEASES, "cifar_fs", (Release("cifar100", (unknown(RELEASES["cifar_fs"][0].files[0]),)),))
    (file,) = download("cifar_fs", cifar_fs(), tmp_path / "raw")
    damaged = bytearray(archive)
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(damaged)

    with pytest.raises(DataError, match=r"as at the first download, recorded in .*\.sha256"):
        download("cifar_fs", cifar_fs(), tmp_path / "raw")

    file.unlink()
    assert download("cifar_fs", cifar_fs(), tmp_path / "raw") == [file]
    assert file.read_bytes() == archive
    (tmp_path / "raw" / "cifar100" / f".{file.name}.sha256").unlink()
    file.write_bytes(damaged)
    assert download("cifar_fs", cifar_fs(), tmp_path / "raw") == [file]


def unknown(file):
    """Return a remote file without its checksum."""
    return RemoteFile(file.name, file.addresses)


def test_missing_path_is_reported(cifar_fs, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        download("cifar_fs", cifar_fs(path="nowhere"), tmp_path / "raw")


@pytest.mark.parametrize("name", ["mini_imagenet", "tiered_imagenet"])
def test_imagenet_terms_must_be_accepted_before_a_download(name, tmp_path):
    with pytest.raises(DataError, match=r"(?s)non-commercial.*accept_terms: true.*By hand"):
        download(name, DATASETS[name].settings(), tmp_path)


def test_one_checksum_for_several_files_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"images_background\.zip, images_evaluation\.zip"):
        download("omniglot", DATASETS["omniglot"].settings(sha256="0" * 64), tmp_path)


def test_disk_is_checked_before_the_first_byte(monkeypatch, tmp_path):
    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="free some space"):
        download("cub", DATASETS["cub"].settings(), tmp_path)


def test_every_published_data_set_has_a_release_and_manual_steps():
    downloadable = {name for name, part in DATASETS.items() if "mirrors" in part.settings.model_fields}
    assert downloadable == RELEASES.keys() == MANUAL_STEPS.keys()
