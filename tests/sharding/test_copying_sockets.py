"""Copying over a real socket, from a server on loopback that cuts connections, sends wrong bytes or answers 503.

One server speaks plain HTTP and is always there; the other is moto's S3 server, read and written by s3fs as
`s3://…`, where both are installed (docs/setup.md), and reported as skipped elsewhere.
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import fsspec
import pytest

from sharding import PackOptions, ShardError, ShardSet, pack
from sharding.__main__ import main
from sharding.copying import copy

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


class Loopback(fsspec.AbstractFileSystem):
    """`loopback://host:port/…` by urllib: fsspec's own `https://` needs aiohttp, which the lock does not have."""

    protocol = "loopback"

    def exists(self, path: str, **_: Any) -> bool:
        request = urllib.request.Request(f"http://{self._strip_protocol(path)}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=30):
                return True
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return False

    def cat_file(self, path: str, *_: Any, **__: Any) -> bytes:
        with self._open(path) as file:
            return file.read()

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        return urllib.request.urlopen(f"http://{self._strip_protocol(path)}", timeout=30)


class Server(ThreadingMixIn, WSGIServer):
    """A server whose answers to GET are faulty where `faults` (end of a path → kind) says so; notes what is asked."""

    daemon_threads = True

    def serve(self, application: Application) -> None:
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []

        def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            self.asked.append(f"{method} {path.rpartition('/')[2]}")
            kind = next((kind for name, kind in self.faults.items() if path.endswith(name)), "")
            if kind == "503" or (kind == "503 to PUT" and method == "PUT"):
                start("503 Slow Down", [("Content-Length", "0")])
                return []
            body = b"".join(application(environ, start))
            if method == "GET" and kind == "cut":
                return [body[: len(body) // 2]]
            if method == "GET" and kind == "wrong bytes":
                return [body[:-1] + bytes([body[-1] ^ 1])]
            return [body]

        self.set_app(faulty)


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # whose clients wait for an answer to `Expect: 100-continue`

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with make_server("127.0.0.1", 0, None, Server, Quiet) as made:  # type: ignore[type-var]
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture(scope="module")
def packed(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in 3 shards."""
    out = tmp_path_factory.mktemp("packed")
    return pack(PackOptions(source=class_folders, out=out, split="train", workers=1, samples_per_shard=10))[0]


@pytest.fixture
def http(server: Server, packed: Path) -> str:
    """The packed split on the server, by plain HTTP; returns its address."""

    def files(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        path = packed / environ["PATH_INFO"].removeprefix("/train/")
        body = path.read_bytes() if path.is_file() else b""
        start("200 OK" if path.is_file() else "404 Not Found", [("Content-Length", str(len(body)))])
        return [body if environ["REQUEST_METHOD"] == "GET" else b""]

    fsspec.register_implementation("loopback", Loopback, clobber=True)
    server.serve(files)
    return f"loopback://127.0.0.1:{server.server_port}/train"


@pytest.fixture
def s3(server: Server, packed: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The packed split in a bucket of moto's S3 server; returns its address."""
    s3fs, moto = pytest.importorskip("s3fs"), pytest.importorskip("moto.moto_server.werkzeug_app")
    server.serve(moto.DomainDispatcherApplication(moto.create_backend_app))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{server.server_port}"
    fsspec.filesystem("s3").mkdir(bucket)
    copy(str(packed), f"s3://{bucket}/train")
    return f"s3://{bucket}/train"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("address", ["http", "s3"])
def test_it_arrives_byte_for_byte(
    address: str, packed: Path, tmp_path: Path, server: Server, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(address)
    copy(source, str(tmp_path / "train"))
    assert contents(tmp_path / "train") == contents(packed) and len(contents(packed)) == 9
    server.asked.clear()
    copy(source, str(tmp_path / "train"))
    assert {asked.rpartition(" ")[2] for asked in server.asked if asked.startswith("GET")} <= {
        "manifest.json",
        "train",
        "",
    }


@pytest.mark.parametrize("address", ["http", "s3"])
@pytest.mark.parametrize("fault", ["cut", "wrong bytes", "503"])
@pytest.mark.parametrize("name", ["train-000001.tar", "samples.npy"])
def test_a_fault_on_the_way_is_one_line_and_the_copy_goes_on_later(
    name: str, fault: str, address: str, packed: Path, tmp_path: Path, server: Server,
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = request.getfixturevalue(address)
    server.faults[name] = fault
    assert main(["copy", source, str(tmp_path / "train"), "--workers", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and f"train/{name}" in lines[0] and "run the same command again, it goes on" in lines[0]
    with pytest.raises(ShardError, match="not a packed split"):
        ShardSet.open(tmp_path / "train")
    arrived = contents(tmp_path / "train")
    assert name not in arrived and not any(".part" in file for file in arrived)
    assert all(content == contents(packed)[file] for file, content in arrived.items())
    server.faults.clear()
    server.asked.clear()
    copy(source, str(tmp_path / "train"))
    assert contents(tmp_path / "train") == contents(packed)
    fetched = {asked.rpartition(" ")[2] for asked in server.asked if asked.startswith("GET")}
    assert name in fetched and not fetched & set(arrived)


def test_an_upload_that_fails_leaves_no_split_and_goes_on_later(
    s3: str, packed: Path, tmp_path: Path, server: Server
) -> None:
    target = s3.replace("/train", "/again")
    server.faults["train-000001.tar"] = "503 to PUT"
    with pytest.raises(ShardError, match=r"train-000001.tar: .*run the same command again"):
        copy(str(packed), target, workers=1)
    assert not fsspec.filesystem("s3").exists(f"{target}/manifest.json")
    server.faults.clear()
    copy(str(packed), target)
    copy(target, str(tmp_path / "back"))
    assert contents(tmp_path / "back") == contents(packed)
