"""The plan of a job: every picture's key, class and place, in packing order, in a small database on disk.

So the memory that a job needs does not grow with the data set, and a job that was killed finds its order again.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sharding.errors import ShardError
from sharding.shard import sample_key
from sharding.source import Record


class Sample(NamedTuple):
    """One picture to pack: its key, class and where its bytes are."""

    key: str
    source: str
    wnid: str
    file: str
    offset: int
    size: int


class Plan:
    """The samples of one split in packing order. `path` ":memory:" or "" keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._database = sqlite3.connect(str(path) if path else "")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, source TEXT, wnid TEXT, file TEXT,"
            " offset INTEGER, size INTEGER, place INTEGER) WITHOUT ROWID"
        )

    def fill(self, records: Iterable[Record], shuffle_seed: int | None) -> None:
        """Store all records: in the order given, or shuffled by seed and key. Raises ShardError for a key that comes twice."""
        self._database.execute("DELETE FROM samples")
        for number, record in enumerate(records):
            key = sample_key(record.name)
            place = number if shuffle_seed is None else shuffled_place(shuffle_seed, key)
            row = (key, record.name, record.wnid, record.file, record.offset, record.size, place)
            try:
                self._database.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                other = self._database.execute("SELECT source FROM samples WHERE key = ?", (key,)).fetchone()[0]
                raise ShardError(
                    f"two sources have the key {key}: {other} and {record.name}; rename or remove one of them"
                ) from None
        self._database.execute("CREATE INDEX IF NOT EXISTS by_place ON samples (place, key)")
        self._database.commit()

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM samples").fetchone()[0])

    def wnids(self) -> dict[str, str]:
        """The classes that occur, sorted, each with one of its sources."""
        rows = self._database.execute("SELECT wnid, min(source) FROM samples GROUP BY wnid ORDER BY wnid")
        return dict(rows.fetchall())

    def shards(self, samples_per_shard: int) -> Iterator[list[Sample]]:
        """The samples of each shard in turn."""
        rows = self._database.execute("SELECT key, source, wnid, file, offset, size FROM samples ORDER BY place, key")
        while chunk := rows.fetchmany(samples_per_shard):
            yield [Sample(*row) for row in chunk]

    def spread(self, count: int) -> list[Sample]:
        """About `count` samples, evenly spread over the plan, to judge size and time by."""
        total = len(self)
        places = sorted({total * number // count for number in range(min(count, total))})
        query = "SELECT key, source, wnid, file, offset, size FROM samples ORDER BY place, key LIMIT 1 OFFSET ?"
        return [Sample(*self._database.execute(query, (place,)).fetchone()) for place in places]

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def shuffled_place(seed: int, key: str) -> int:
    """The place of a key in the shuffled order: a 64-bit keyed hash, so it depends on nothing but seed and key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big", signed=True)
