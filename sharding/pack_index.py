"""The plan of a job: every picture's key, class and place, in packing order, in a small database on disk.

So the memory that a job needs does not grow with the data set. Pictures of sources that can only be read in order are
spooled on the way: to files that each hold a range of the packing order, so that a shard finds its own in one or two.
"""

import hashlib
import random
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from sharding.errors import ShardError
from sharding.record import NUMBERED_NAME, Record
from sharding.shard import sample_key

_SHUFFLED_RANGES_BITS = 6
_COLUMNS = "key, source, wnid, file, offset, size"


class Sample(NamedTuple):
    """One picture to pack: its key, class and where its bytes are (`size` −1: the whole file)."""

    key: str
    source: str
    wnid: str
    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The source bytes."""
        with Path(self.file).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class PackIndex:
    """The samples of one split in packing order: that of the source, or shuffled by seed and key.

    `path` None keeps the plan for this process only. `probe` holds some spooled-away pictures' bytes, to judge by.
    """

    def __init__(self, path: Path | None, seed: int | None) -> None:
        self._seed = seed
        self._database = sqlite3.connect(str(path) if path else "")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS samples ({_COLUMNS}, place, PRIMARY KEY (key)) WITHOUT ROWID"
        )
        self.probe: list[bytes] = []
        self.patched: dict[str, str] = {}

    def fill(self, records: Iterable[Record], patches: dict[str, str], spool: "Spool | None") -> None:
        """Store all records; `patches` (file name → path) take the place of pictures of that name.

        Raises ShardError for a key that comes twice, or a patch that would replace two pictures.
        """
        self._database.execute("DROP INDEX IF EXISTS by_place")
        self._database.execute("DELETE FROM samples")
        self.patched.clear()
        for number, record in enumerate(records):
            key = sample_key(record.name)
            place = number if self._seed is None else shuffled_place(self._seed, key)
            base = record.name.rpartition("/")[2]
            if base in patches:
                other = self.patched.setdefault(base, record.name)
                if other != record.name:
                    raise ShardError(f"{patches[base]} would replace both {other} and {record.name}")
                record = record._replace(file=patches[base], offset=0, size=-1, data=None)
            elif record.data is not None:
                record = self._put_aside(record, record.data, place, number, spool)
            self._insert(key, record, place)
        self._database.execute("CREATE INDEX IF NOT EXISTS by_place ON samples (place, key)")
        self._database.commit()

    def _put_aside(self, record: Record, data: bytes, place: int, number: int, spool: "Spool | None") -> Record:
        if spool is not None:
            file, offset = spool.add(place if self._seed is not None else number, data)
            return record._replace(file=file, offset=offset, size=len(data), data=None)
        if len(self.probe) < 24:
            self.probe.append(data)
        elif (at := random.Random(number).randrange(number + 1)) < 24:
            self.probe[at] = data
        return record._replace(size=len(data), data=None)

    def _insert(self, key: str, record: Record, place: int) -> None:
        row = (key, record.name, record.wnid, record.file, record.offset, record.size, place)
        try:
            self._database.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            query = "SELECT source, file FROM samples WHERE key = ?"
            source, file = self._database.execute(query, (key,)).fetchone()
            raise ShardError(
                f"two sources have the key {key}: {source} ({file}) and {record.name} ({record.file}); "
                "rename or remove one of them"
            ) from None

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM samples").fetchone()[0])

    def unlabelled(self) -> str | None:
        """One source picture whose class a ground-truth file must tell, if there is any."""
        row = self._database.execute("SELECT min(source) FROM samples WHERE wnid = ''").fetchone()
        return None if row[0] is None else str(row[0])

    def label(self, truth: list[str], origin: str) -> None:
        """Give the unlabelled pictures the wnids `truth`: by the number in an official name, else in order of name.

        Raises ShardError if a number has no line, or names without numbers are not as many as the lines.
        """
        rows = self._database.execute("SELECT key, source FROM samples WHERE wnid = '' ORDER BY source").fetchall()
        numbers = [NUMBERED_NAME.search(source) for _, source in rows]
        lines = [int(number[1]) if number else 0 for number in numbers]
        if not all(lines):
            if len(rows) != len(truth):
                raise ShardError(f"{origin}: {len(truth)} lines for {len(rows)} pictures; it must have one line each")
            lines = list(range(1, len(rows) + 1))
        if max(lines) > len(truth):
            raise ShardError(f"{origin}: {len(truth)} lines, but {rows[lines.index(max(lines))][1]} needs more")
        updates = [(truth[line - 1], key) for (key, _), line in zip(rows, lines)]
        self._database.executemany("UPDATE samples SET wnid = ? WHERE key = ?", updates)
        self._database.commit()

    def wnids(self) -> dict[str, str]:
        """The classes that occur, sorted, each with one of its sources."""
        rows = self._database.execute("SELECT wnid, min(source) FROM samples GROUP BY wnid ORDER BY wnid")
        return dict(rows.fetchall())

    def digest(self) -> str:
        """Hex SHA-256 over all keys and classes in packing order: what a half-done job must find unchanged."""
        digest = hashlib.sha256()
        for row in self._database.execute("SELECT key, wnid FROM samples ORDER BY place, key"):
            digest.update(f"{row[0]} {row[1]}\n".encode())
        return digest.hexdigest()

    def shards(self, samples_per_shard: int) -> Iterator[list[Sample]]:
        """The samples of each shard in turn."""
        query = f"SELECT {_COLUMNS}, place FROM samples WHERE (place, key) > (?, ?) ORDER BY place, key LIMIT ?"
        place, key = -1, ""
        while rows := self._database.execute(query, (place, key, samples_per_shard)).fetchall():
            yield [Sample(*row[:-1]) for row in rows]
            place, key = rows[-1][-1], rows[-1][0]

    def spread(self, count: int) -> Iterator[Sample]:
        """At most `count` samples, evenly spread over the plan."""
        last = self._database.execute("SELECT max(place) FROM samples").fetchone()[0]
        query = f"SELECT {_COLUMNS} FROM samples WHERE place >= ? ORDER BY place, key LIMIT 1"
        rows = (self._database.execute(query, (last * number // count,)).fetchone() for number in range(count))
        yield from (Sample(*row) for row in dict.fromkeys(rows))

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def shuffled_place(seed: int, key: str) -> int:
    """The place of a key in the shuffled order: a keyed 63-bit hash, so it depends on nothing but seed and key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") >> 1


class Spool:
    """Files in `folder` that pictures are appended to, each for a range of places in the packing order.

    The places of a shuffled order are split into 64 ranges; others by `samples_per_shard`, so that a file is a shard's.
    """

    def __init__(self, folder: Path, shuffled: bool, samples_per_shard: int) -> None:
        self._folder, self._shuffled, self._samples_per_shard = folder, shuffled, samples_per_shard
        self._files: dict[int, IO[bytes]] = {}
        self.bytes = 0

    def __enter__(self) -> "Spool":
        self._folder.mkdir(exist_ok=True)
        for old in self._folder.iterdir():
            old.unlink()
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def add(self, place: int, data: bytes) -> tuple[str, int]:
        """Append one picture; returns the file and the offset where it lies."""
        number = place >> (63 - _SHUFFLED_RANGES_BITS) if self._shuffled else place // self._samples_per_shard
        if number not in self._files:
            if not self._shuffled:  # in order: the file before this one is done
                self.__exit__()
                self._files.clear()
            self._files[number] = (self._folder / f"{number:06d}").open("ab")
        file = self._files[number]
        offset = file.tell()
        file.write(data)
        self.bytes += len(data)
        return file.name, offset
