"""Memory does not grow with the number of loaders, nor with the number of samples."""

from pathlib import Path

from dali_pipelines import DataConfig, Loader
from sharding import ShardSet, Statistics
from tests.dali_pipelines.repeated import repeated

MEGABYTE = 1 << 20


def anonymous_bytes() -> int:
    """Resident memory that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def test_fifty_loaders_do_not_grow_memory(jpeg_folder: Path, statistics: Statistics) -> None:
    """In float32 one loader's buffers are 9 MB and a leak of decoded crops would be 6 MB a loader."""
    config = DataConfig(batch_size=5, threads=1)
    sizes = []
    for _ in range(50):
        with ShardSet.open(jpeg_folder) as shards, Loader(shards, config, statistics=statistics) as loader:
            assert sum(len(batch.ids) for batch in loader.epoch(0)) == 45
        sizes.append(anonymous_bytes())
    assert sizes[-1] - sizes[9] < 20 * MEGABYTE, [size // MEGABYTE for size in sizes]


def test_memory_does_not_depend_on_the_number_of_samples(
    jpeg_folder: Path, tmp_path: Path, statistics: Statistics
) -> None:
    """Fifty times the samples add the order (8 bytes a sample) and the shards' indexes, and nothing else.

    The pixels of what is added would be 330 MB decoded.
    """
    config = DataConfig(batch_size=15, threads=1, output="uint8")
    grown = []
    for number, copies in enumerate((1, 1, 50)):
        folder = repeated(jpeg_folder, tmp_path / str(number), copies)
        with ShardSet.open(folder) as shards, Loader(shards, config, statistics=statistics) as loader:
            before = anonymous_bytes()
            assert sum(len(batch.ids) for batch in loader.epoch(0)) == 45 * copies
            grown.append(anonymous_bytes() - before)
    assert grown[2] - grown[1] < 32 * MEGABYTE, grown
