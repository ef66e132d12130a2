"""Tars and indexes against tarfile, GNU tar, webdataset, DALI's reader and DALI's wds2idx."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import wds2idx
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def

from sharding import ShardError
from sharding.manifest import ShardInfo
from sharding.shard import KEY_BYTES, Entry, index_text, read_rows, sample_key, sample_members, tar_end

NAMES = [
    ("n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10026"),
    ("a b.jpg", "a%20b"),
    ("café/x.jpg", "caf%C3%A9/x"),
    (".hidden.jpg", "%2Ehidden"),
    (".jpg", "%2Ejpg"),
    ("two.dots.png", "two%2Edots"),
    ("no-suffix", "no-suffix"),
    ("100%.jpg", "100%25"),
    ("../../etc/passwd.jpg", "%2E%2E/%2E%2E/etc/passwd"),
    ("__meta__/x.jpg", "%5F_meta__/x"),
    ("back\\slash\n.jpg", "back%5Cslash%0A"),
]


@pytest.mark.parametrize(("name", "key"), NAMES)
def test_keys(name: str, key: str) -> None:
    assert sample_key(name) == key


def test_long_names_end_in_a_hash_and_stay_apart() -> None:
    keys = {sample_key("x" * 200 + tail + ".jpg") for tail in ("1", "2", "3")}
    assert len(keys) == 3
    assert all(len(key) == KEY_BYTES and re.fullmatch(r"x{57}-[0-9a-f]{32}", key) for key in keys)
    assert sample_key("y" * 90 + ".jpg") == "y" * 90


PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(first=st.lists(PARTS, min_size=1, max_size=3), second=st.lists(PARTS, min_size=1, max_size=3))
def test_any_two_names_that_differ_have_keys_that_differ(first: list[str], second: list[str]) -> None:
    names = ["/".join(parts) + ".jpg" for parts in (first, second)]
    keys = [sample_key(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_/%-]{1,90}", key) for key in keys)
    assert (keys[0] == keys[1]) == (names[0] == names[1])


def write(path: Path, samples: list[tuple[str, bytes, int]]) -> None:
    members = b"".join(sample_members(*sample, "jpeg") for sample in samples)
    path.write_bytes(members + tar_end(len(members)))
    entries = [Entry(key, len(picture), label) for key, picture, label in samples]
    path.with_suffix(".idx").write_text(index_text(entries, "jpg"))


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, bytes, int]]:
    random = np.random.default_rng(0)
    keys = [sample_key(name) for name, _ in NAMES] + [sample_key("long" * 40), "plain"]
    return [(key, random.bytes(int(random.integers(0, 3000))), label * 83) for label, key in enumerate(keys)]


@pytest.fixture(scope="module")
def tar(samples: list[tuple[str, bytes, int]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a shard") / "train-000000.tar"
    write(path, samples)
    return path


def test_the_whole_tar_is_what_tarfile_writes(tar: Path, samples: list[tuple[str, bytes, int]]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for key, picture, label in samples:
            for name, content in ((f"{key}.jpg", picture), (f"{key}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    assert tar.read_bytes() == file.getvalue()


@pytest.mark.parametrize("last", [0, 512, 8192, 8193, 10240])
def test_the_end_is_padded_as_tarfile_pads_it(tmp_path: Path, last: int) -> None:
    write(tmp_path / "x.tar", [("a", b"x" * last, 1)])
    size = (tmp_path / "x.tar").stat().st_size
    assert size % 10240 == 0
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert archive.getnames() == ["a.jpg", "a.cls"]


def test_gnu_tar_lists_it(tar: Path, samples: list[tuple[str, bytes, int]]) -> None:
    listed = subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert listed.stdout.split() == [f"{key}.{suffix}" for key, _, _ in samples for suffix in ("jpg", "cls")]


def test_webdataset_reads_every_sample(tar: Path, samples: list[tuple[str, bytes, int]]) -> None:
    found = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [(one["__key__"], one["jpg"], int(one["cls"])) for one in found] == samples


def test_dalis_reader_finds_every_sample_by_our_index(tar: Path, samples: list[tuple[str, bytes, int]]) -> None:
    @pipeline_def(batch_size=len(samples), num_threads=1, device_id=None)
    def graph() -> object:
        return tuple(
            fn.readers.webdataset(paths=[str(tar)], index_paths=[str(tar.with_suffix(".idx"))], ext=["jpg", "cls"])
        )

    pipeline = graph()
    pipeline.build()
    pictures, labels = pipeline.run()
    assert [pictures.at(place).tobytes() for place in range(len(samples))] == [picture for _, picture, _ in samples]
    assert [int(labels.at(place).tobytes()) for place in range(len(samples))] == [label for _, _, label in samples]


def test_the_index_is_wds2idxs(tar: Path, tmp_path: Path) -> None:
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "theirs.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "theirs.idx").read_bytes() == tar.with_suffix(".idx").read_bytes()


def test_the_rows_lead_to_the_bytes(tar: Path, samples: list[tuple[str, bytes, int]]) -> None:
    content, shard = tar.read_bytes(), ShardInfo(tar.name, len(samples), tar.stat().st_size, "")
    rows = read_rows(tar, shard, "jpg")
    assert len(rows) == len(samples) == 13
    for (start, size, label), (_, picture, expected) in zip(rows, samples, strict=True):
        assert content[start : start + size] == picture and label == expected


@pytest.mark.parametrize(
    ("samples", "suffix", "offset", "content", "message"),
    [
        (2, "jpg", 0, b"b", r"sample 0 or the next is not as packing writes it \(bad checksum\)"),
        (2, "jpg", 1024, b"b", r"sample a or the next is not as packing writes it \(bad checksum\)"),
        (2, "npy", 0, b"", r"members a.jpg and a.cls, expected .npy and .cls of one key"),
        (
            1,
            "jpg",
            0,
            b"",
            "sample a or the next is not as packing writes it .*more samples follow, the manifest says 1",
        ),
        (3, "jpg", 0, b"", r"sample b or the next is not as packing writes it \(end of file header\)"),
        (2, "jpg", 1536, b"x", r"sample a or the next is not as packing writes it \(invalid literal for int.* b'x'\)"),
    ],
)
def test_what_packing_did_not_write_is_an_error_that_names_the_sample(
    tmp_path: Path, samples: int, suffix: str, offset: int, content: bytes, message: str
) -> None:
    path = tmp_path / "train-000007.tar"
    write(path, [("a", b"x" * 3, 1), ("b", b"y" * 3, 2)])
    data = path.read_bytes()
    path.write_bytes(data[:offset] + content + data[offset + len(content) :])
    with pytest.raises(ShardError, match=f"train-000007.tar: .*{message}"):
        read_rows(path, ShardInfo(path.name, samples, len(data), ""), suffix)
