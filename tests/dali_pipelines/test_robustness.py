"""What breaks stops the run with a name; what ends early leaves nothing behind."""

import gc
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from dali_pipelines import DataConfig, Loader, LoaderError
from sharding import ShardError, ShardSet, Statistics


@pytest.fixture
def copied(jpeg_folder: Path, tmp_path: Path) -> Path:
    """A copy of the split that a test may damage."""
    return Path(shutil.copytree(jpeg_folder, tmp_path / "train"))


@pytest.fixture
def without_table(copied: Path) -> Path:
    """As version 0.1 packed it: labels stand in the tars alone, places in the indexes."""
    (copied / "samples.npy").unlink()
    return copied


def overwrite(folder: Path, sample: int, content: bytes) -> tuple[str, str]:
    """Put `content` over the beginning of a sample's picture, in place; returns its shard and key."""
    with ShardSet.open(folder) as shards:
        shard, key = shards.locate(sample)
        picture = shards.images([sample])[0].tobytes()
    tar = folder / shard
    data = tar.read_bytes()
    start = data.index(picture)
    tar.write_bytes(data[:start] + content + data[start + len(content) :])
    return shard, key


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("damaged", [0, 23, 44])
def test_a_picture_that_does_not_decode_is_named_with_the_command_that_checks(
    copied: Path, statistics: Statistics, damaged: int, fused: bool
) -> None:
    shard, key = overwrite(copied, damaged, bytes(100))
    config = DataConfig(batch_size=10, training=False, fused=fused, threads=2)
    seen = 0
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        with pytest.raises(LoaderError) as raised:
            for batch in loader.epoch(0):
                seen += len(batch.ids)
    message = str(raised.value)
    assert message.startswith(f"{copied}/{shard}: sample {key} does not decode (")
    assert message.endswith(f"check the set with: python -m sharding verify {copied}")
    assert "\n" not in message and seen == damaged // 10 * 10


def test_a_failure_that_is_no_pictures_is_told_as_dali_tells_it(
    copied: Path, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite(copied, 3, bytes(100))
    monkeypatch.setattr("dali_pipelines.graph.decode_by_simplejpeg", lambda jpeg, pixels: (0, ""))
    config = DataConfig(batch_size=10, training=False, threads=1, fused=False)
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        with pytest.raises(LoaderError, match=r"^DALI stopped: nvImageCodec failure: '#\d+'$"):
            list(loader.epoch(0))


def test_a_loader_goes_on_after_a_picture_that_did_not_decode(copied: Path, statistics: Statistics) -> None:
    overwrite(copied, 44, bytes(100))
    config = DataConfig(batch_size=10, training=False, threads=1)
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        for _ in range(2):
            got: list[int] = []
            with pytest.raises(LoaderError):
                got.extend(len(batch.ids) for batch in loader.epoch(0))
            batches = loader.epoch(0)
            assert len(next(batches).ids) == 10


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "forgotten"])
@pytest.mark.parametrize("fused", [True, False], ids=["compiled", "DALI graph"])
@pytest.mark.parametrize("damaged", [5, 10, 15])
def test_a_consumer_that_stops_hears_nothing_of_batches_it_did_not_ask_for(
    copied: Path,
    statistics: Statistics,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damaged: int,
    fused: bool,
    closed: bool,
) -> None:
    """However far ahead the damaged picture lies of the first batch: in the queue of batches or of DALI, or beyond."""
    heard: list[str] = []
    monkeypatch.setattr("sys.unraisablehook", lambda event: heard.append(repr(event.exc_value)))
    overwrite(copied, damaged, bytes(100))
    config = DataConfig(batch_size=5, training=False, threads=1, prefetch=2, fused=fused)
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        for _ in range(2):  # the second time with the pipeline of the first, or with a new one
            batches = loader.epoch(0)
            assert next(batches).ids.tolist() == [0, 1, 2, 3, 4]
            if closed:
                batches.close()
            del batches
            gc.collect()
        with pytest.raises(LoaderError, match="does not decode"):
            list(loader.epoch(0))
    assert heard == [] and capfd.readouterr().err == ""


def cut_short(folder: Path, sample: int) -> tuple[str, str]:
    """Put zeros over the last third of a sample's picture, in place; returns its shard and key."""
    with ShardSet.open(folder) as shards:
        picture = shards.images([sample])[0].tobytes()
    return overwrite(folder, sample, picture[: len(picture) * 2 // 3] + bytes(len(picture) - len(picture) * 2 // 3))


@pytest.mark.parametrize("by_simplejpeg", [False, True], ids=["libjpeg-turbo", "simplejpeg"])
def test_a_damaged_picture_is_told_once_counted_and_used_as_it_decodes(
    copied: Path,
    statistics: Statistics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    by_simplejpeg: bool,
) -> None:
    if by_simplejpeg:
        monkeypatch.setattr("dali_pipelines.cpu_producer.find_codec", lambda: None)
    told = [cut_short(copied, sample) for sample in (7, 31)]
    config = DataConfig(batch_size=5, training=False, threads=2, output="uint8")
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        seen = 0
        for epoch in (0, 1):
            for batch in loader.epoch(epoch):
                for sample, image in zip(batch.ids.tolist(), batch.images):
                    picture = simplejpeg.decode_jpeg(shards.images([sample])[0].tobytes(), strict=False)
                    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), picture[16:240, 16:240])
                    seen += 1
        assert seen == 90 and loader.damaged_images == 2
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    for warning, (shard, key) in zip(warnings, told):
        assert warning.startswith(f"{copied}/{shard}: sample {key} is damaged: ")


def test_without_pillows_library_simplejpeg_gives_the_same_batches(
    jpeg_shards: ShardSet, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config in (
        DataConfig(batch_size=10, threads=3, recipe="paper"),
        DataConfig(batch_size=8, threads=2, training=False, views=10, output="uint8"),
    ):
        with monkeypatch.context() as patched:
            with Loader(jpeg_shards, config, statistics=statistics) as loader:
                expected = list(loader.epoch(0))
            patched.setattr("dali_pipelines.cpu_producer.find_codec", lambda: None)
            with Loader(jpeg_shards, config, statistics=statistics) as loader:
                got = list(loader.epoch(0))
        assert len(got) == len(expected) >= 4
        for batch, other in zip(got, expected):
            assert batch.ids.tolist() == other.ids.tolist()
            torch.testing.assert_close(batch.images, other.images, rtol=0, atol=0)


def test_shards_that_are_closed_stay_mapped_for_batches_in_the_making(
    jpeg_folder: Path, statistics: Statistics
) -> None:
    shards = ShardSet.open(jpeg_folder)
    with Loader(shards, DataConfig(batch_size=5, threads=2, training=False), statistics=statistics) as loader:
        batches = loader.epoch(0)
        assert next(batches).ids.tolist() == [0, 1, 2, 3, 4]
        shards.close()
        assert sum(len(batch.ids) for batch in batches) == 40


def test_a_picture_of_another_size_is_named_before_it_is_read(copied: Path, statistics: Statistics) -> None:
    small = io.BytesIO()
    Image.new("RGB", (230, 240)).save(small, "JPEG", quality=20)
    shard, key = overwrite(copied, 13, small.getvalue())
    config = DataConfig(batch_size=5, training=False, views=10, threads=1)
    with ShardSet.open(copied) as shards, Loader(shards, config, statistics=statistics) as loader:
        with pytest.raises(LoaderError) as raised:
            list(loader.epoch(0))
    assert f"{copied}/{shard}: sample {key} decodes to (240, 230, 3), expected (256, 256, 3)" in str(raised.value)


def put_label(folder: Path, sample: int, content: bytes) -> str:
    """Overwrite a sample's label in its tar; returns the error that is expected then, as a pattern."""
    with ShardSet.open(folder) as shards:
        shard, key = shards.locate(sample)
    with tarfile.open(folder / shard) as archive:
        start = archive.getmember(f"{key}.cls").offset_data
    with (folder / shard).open("r+b") as tar:
        tar.seek(start)
        tar.write(content)
    return f"{shard}: sample {key} .*verify {folder}$"


def test_a_label_that_is_no_number_stops_at_opening_with_its_key(without_table: Path) -> None:
    expected = put_label(without_table, 38, b"x")
    with pytest.raises(ShardError, match=expected):
        ShardSet.open(without_table)


@pytest.mark.parametrize("fused", [True, False])
def test_a_label_of_no_class_stops_an_epoch_with_its_key(
    without_table: Path, statistics: Statistics, fused: bool
) -> None:
    """Batches of healthy samples before it are delivered."""
    expected = put_label(without_table, 38, b"9")
    config = DataConfig(batch_size=5, training=False, fused=fused, threads=1)
    seen = 0
    with ShardSet.open(without_table) as shards, Loader(shards, config, statistics=statistics) as loader:
        with pytest.raises(ShardError, match=expected):
            for batch in loader.epoch(0):
                seen += len(batch.ids)
    assert 0 < seen <= 35


def test_faults_of_a_set_are_errors_at_opening(copied: Path) -> None:
    with (copied / "train-000001.tar").open("ab") as tar:
        tar.write(b"\0")
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        ShardSet.open(copied)


def test_a_manifest_of_another_version_is_an_error_at_opening(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "format": manifest["format"] + 1}))
    with pytest.raises(ShardError, match=r"manifest\.json: format"):
        ShardSet.open(copied)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there_is_named(jpeg_shards: ShardSet, statistics: Statistics, device: str) -> None:
    with pytest.raises(LoaderError, match=f"device {device}: this machine has 0 CUDA devices; ask for --device cpu"):
        Loader(jpeg_shards, DataConfig(batch_size=5, device=device), statistics=statistics)


def threads() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


def files() -> set[str]:
    """The open files, sockets and devices of this process; a listing's own descriptor is gone when it is read."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        if path.is_symlink():
            found.add(f"{path.name} {path.readlink()}")
    return found


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails if a test leaves a thread or a file open (the first run in a process starts what lives for ever)."""
    gc.collect()
    before = threads(), files()
    yield
    gc.collect()
    assert threads() - before[0] == set()
    assert files() - before[1] == set()


def consumed(shards: ShardSet, statistics: Statistics, config: DataConfig, take: int) -> int:
    """Samples of the first `take` batches of an epoch; then the consumer raises."""
    seen = 0
    with Loader(shards, config, statistics=statistics) as loader:
        for step, batch in enumerate(loader.epoch(0)):
            if step == take:
                raise KeyboardInterrupt(f"after {seen}")
            seen += len(batch.ids)
    return seen


CONFIGS = [
    DataConfig(batch_size=5, threads=2),
    DataConfig(batch_size=5, threads=2, fused=False, output="uint8"),
    DataConfig(batch_size=5, threads=2, window=2),
]


@pytest.fixture
def warmed_up(jpeg_folder: Path, statistics: Statistics) -> None:
    for config in CONFIGS:
        with ShardSet.open(jpeg_folder) as shards:
            consumed(shards, statistics, config, take=99)


@pytest.mark.parametrize("config", CONFIGS, ids=["compiled", "DALI graph", "window"])
@pytest.mark.parametrize("take", [0, 1, 4])
def test_a_consumer_that_raises_leaves_no_thread_and_no_file(
    warmed_up: None, nothing_left: None, jpeg_folder: Path, statistics: Statistics, config: DataConfig, take: int
) -> None:
    with ShardSet.open(jpeg_folder) as shards:
        with pytest.raises(KeyboardInterrupt, match=f"after {take * 5}"):
            consumed(shards, statistics, config, take)


@pytest.mark.parametrize("config", CONFIGS, ids=["compiled", "DALI graph", "window"])
def test_a_consumer_that_stops_and_forgets_to_close_leaves_no_thread_and_no_file(
    warmed_up: None, nothing_left: None, jpeg_folder: Path, statistics: Statistics, config: DataConfig
) -> None:
    shards = ShardSet.open(jpeg_folder)
    loader = Loader(shards, config, statistics=statistics)
    for batch in loader.epoch(0):
        assert len(batch.ids) == 5
        break
    del loader, batch
    shards.close()


def test_an_epoch_after_close_is_refused(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    loader = Loader(jpeg_shards, DataConfig(batch_size=5), statistics=statistics)
    loader.close()
    with pytest.raises(LoaderError, match="this loader is closed"):
        loader.epoch(0)


def test_closing_twice_is_closing_and_an_epoch_under_way_goes_on(jpeg_shards: ShardSet, statistics: Statistics) -> None:
    loader = Loader(jpeg_shards, DataConfig(batch_size=5), statistics=statistics)
    batches = loader.epoch(0)
    seen = len(next(batches).ids)
    loader.close()
    loader.close()
    assert seen + sum(len(batch.ids) for batch in batches) == 45 and loader.damaged_images == 0
