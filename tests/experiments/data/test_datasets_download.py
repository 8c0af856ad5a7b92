"""Downloads from a server on loopback: resumed, verified, never half a file in place."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.data import datasets, download, sources
from experiments.data.download import Patience, Source
from experiments.entry.errors import InputError
from tests.experiments.data import data_files

CONTENT = np.random.default_rng(3).bytes(700_001)
QUICK = Patience(timeout=5.0, attempts=2, wait=0.0)


@dataclasses.dataclass
class Behaviour:
    """What the server does, and what it saw.

    Attributes:
      files: path -> content.
      cut_after: bytes after which each answer's connection is cut; None never.
      ranges: whether it honours Range.
      statuses: taken for the next answers before it behaves.
      range_headers: the Range header of each request.
    """

    files: dict[str, bytes] = dataclasses.field(default_factory=lambda: {"/f.bin": CONTENT})
    cut_after: int | None = None
    ranges: bool = True
    statuses: list[int] = dataclasses.field(default_factory=list)
    range_headers: list[str | None] = dataclasses.field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:  # http.server names it
        behaviour = self.behaviour
        asked = self.headers.get("Range")
        behaviour.range_headers.append(asked)
        if behaviour.statuses:
            self.send_error(behaviour.statuses.pop(0))
            return
        content = behaviour.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and behaviour.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: behaviour.cut_after])

    def log_message(self, *_arguments: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[tuple[Behaviour, str]]:
    """A server on a free loopback port: its behaviour and its address."""
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield behaviour, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def _source(address: str, content: bytes = CONTENT) -> Source:
    return Source(f"{address}/f.bin", hashlib.sha256(content).hexdigest(), len(content))


def test_whole_file_arrives_verified(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """One request brings the file, into a folder made for it, and leaves no partial file."""
    behaviour, address = server
    target = tmp_path / "new" / "f.bin"
    said: list[str] = []
    download.fetch(_source(address), str(target), patience=QUICK, report=said.append)
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["f.bin"]
    assert behaviour.range_headers == [None]
    assert len(said) == 1
    download.fetch(_source(address), str(target), patience=QUICK)
    assert len(behaviour.range_headers) == 1, "a file in place is not fetched again"


def test_cut_connections_are_resumed(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """Each cut goes on where it stopped, more often than the tries without progress."""
    behaviour, address = server
    behaviour.cut_after = 100_000
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    assert len(behaviour.range_headers) == 8
    assert behaviour.range_headers[1] == "bytes=100000-"


def test_another_run_goes_on(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """A partial file of an interrupted run is continued, not fetched again."""
    behaviour, address = server
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:300_000])
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT
    assert behaviour.range_headers == ["bytes=300000-"]


@pytest.mark.parametrize("left", [b"another file", CONTENT[::-1], CONTENT + b"more"])
def test_wrong_partial_file_is_started_anew(
    tmp_path: Path, server: tuple[Behaviour, str], left: bytes
) -> None:
    """A partial file that is of something else costs a second request, not a failure."""
    _, address = server
    (tmp_path / "f.bin.part").write_bytes(left)
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(
    tmp_path: Path, server: tuple[Behaviour, str]
) -> None:
    """Where Range is ignored the answer replaces the part; it is not appended."""
    behaviour, address = server
    behaviour.ranges = False
    (tmp_path / "f.bin.part").write_bytes(CONTENT[:300_000])
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT


def test_passing_server_errors_are_waited_out(
    tmp_path: Path, server: tuple[Behaviour, str]
) -> None:
    """A 503 and a 416 are tried again."""
    behaviour, address = server
    behaviour.statuses = [503]
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    behaviour.statuses = [416]
    (tmp_path / "g.bin.part").write_bytes(CONTENT[:9])
    download.fetch(_source(address), str(tmp_path / "g.bin"), patience=QUICK)
    assert (tmp_path / "g.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (CONTENT[:-1] + b"\0" if CONTENT[-1] else CONTENT[:-1] + b"\1", "SHA-256"),
        (CONTENT + b"x", "more bytes"),
        (CONTENT[:-1], "HTTP status 416|the connection ended"),
    ],
)
def test_another_file_is_refused(
    tmp_path: Path, server: tuple[Behaviour, str], sent: bytes, found: str
) -> None:
    """A changed, longer or shorter file never gets its name."""
    behaviour, address = server
    behaviour.files["/f.bin"] = sent
    with pytest.raises(InputError, match=found):
        download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert not (tmp_path / "f.bin").exists()


def test_absent_file_and_server_are_named(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """A 404 fails at once; a refused connection after the tries."""
    behaviour, address = server
    behaviour.files.clear()
    with pytest.raises(InputError, match=r"f\.bin.*HTTP status 404"):
        download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert len(behaviour.range_headers) == 1
    with pytest.raises(InputError, match="run the same command again"):
        download.fetch(_source("http://127.0.0.1:9"), str(tmp_path / "f.bin"), patience=QUICK)


def test_planted_link_is_not_followed(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """A link where the partial file goes does not lead the bytes elsewhere."""
    _, address = server
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f.bin.part").symlink_to(victim)
    with pytest.raises(InputError):
        download.fetch(_source(address), str(tmp_path / "data" / "f.bin"), patience=QUICK)
    assert victim.read_bytes() == b"precious"


def test_full_disk_is_not_blamed_on_the_network(
    tmp_path: Path, server: tuple[Behaviour, str]
) -> None:
    """A write that fails names the place to write to; a later run goes on."""
    _, address = server
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    try:
        with pytest.raises(InputError, match="free space"):
            download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)
    assert (tmp_path / "f.bin").read_bytes() == CONTENT


def test_two_at_once_do_not_mix(tmp_path: Path, server: tuple[Behaviour, str]) -> None:
    """While one process holds the partial file another is told so."""
    _, address = server
    with open(tmp_path / "f.bin.part", "wb") as held:
        assert download._lock(held.fileno(), held.name)
        with pytest.raises(InputError, match="no other process"):
            download.fetch(_source(address), str(tmp_path / "f.bin"), patience=QUICK)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_load_fetches_only_what_is_missing(
    tmp_path: Path,
    server: tuple[Behaviour, str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """With fetch_missing the files land in the data set's own subfolder and are read from there."""
    behaviour, address = server
    published = tmp_path / "published"
    if name == "mnist":
        data_files.write_mnist(published)
    else:
        data_files.write_cifar_archive(published, name)
    listed = []
    for source in sources.SOURCES[name]:
        content = (published / source.name).read_bytes()
        behaviour.files[f"/{source.name}"] = content
        digest = hashlib.sha256(content).hexdigest()
        listed.append(Source(f"{address}/{source.name}", digest, len(content)))
    monkeypatch.setitem(sources.SOURCES, name, tuple(listed))
    first = datasets.load(name, str(tmp_path / "data"), fetch_missing=True)
    requests = len(behaviour.range_headers)
    assert requests == len(listed)
    again = datasets.load(name, str(tmp_path / "data"), fetch_missing=True)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    assert len(behaviour.range_headers) == requests
    assert sorted(os.listdir(tmp_path / "data" / name)) == sorted(s.name for s in listed)


def test_every_source_has_a_checksum() -> None:
    """No file is listed without a SHA-256, an exact size and an encrypted address."""
    for name, listed in sources.SOURCES.items():
        assert listed, name
        for source in listed:
            assert source.url.startswith("https://")
            assert len(bytes.fromhex(source.sha256)) == 32
            assert 0 < source.size < 2**28
