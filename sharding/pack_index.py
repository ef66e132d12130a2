"""The index of a job: every picture's key, class and where its bytes are, in packing order, in a database on disk.

So the memory that a job needs does not grow with the data set. Pictures of sources that can only be read in order are
spooled on the way: to files that each hold a range of the packing order, so that a shard finds its own in one or two.
"""

import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from sharding.record import NUMBERED_NAME, Record, RejectedImage, ShardError, file_state, printable
from sharding.shard import sample_key

_SHUFFLED_RANGES_BITS = 6
_COLUMNS = "key, source, wnid, file, offset, size, state"
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ELOOP)


class Sample(NamedTuple):
    """One picture to pack: its key, class and where its bytes are (`size` −1: the whole file).

    `state` is that of the file when it was listed (`file_state`), "" if it cannot change: a file of the spool.
    """

    key: str
    source: str
    wnid: str
    file: str
    offset: int
    size: int
    state: str = ""

    def read(self) -> bytes:
        """The source bytes. Raises RejectedImage if they cannot be read, ShardError if the file changed meanwhile."""
        try:
            with Path(self.file).open("rb") as file:
                if self.state and file_state(os.fstat(file.fileno())) != self.state:
                    raise ShardError(f"{self.file}: changed since it was listed; let it be, and pack again")
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            raise RejectedImage(f"cannot be read: {error.strerror}") from None


class PackIndex:
    """The samples of one split in packing order: that of the source, or shuffled by seed and key.

    `path` None keeps the index for this process only.
    """

    def __init__(self, path: Path | None, seed: int | None) -> None:
        self._seed = seed
        self._database = sqlite3.connect(str(path) if path else "")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS samples ({_COLUMNS}, origin, position, PRIMARY KEY (key)) WITHOUT ROWID"
        )

    def fill(self, records: Iterable[Record], spool: "Spool | None") -> list[str]:
        """Store all records; returns links to what is not there. Raises ShardError for a key that comes twice."""
        lost = []
        self._database.execute("DROP INDEX IF EXISTS by_position")
        self._database.execute("DELETE FROM samples")
        for number, record in enumerate(records):
            key, origin = sample_key(record.name), record.file
            position = number if self._seed is None else shuffled_position(self._seed, key)
            if record.link:
                query = "SELECT file, offset, size, state FROM samples WHERE key = ?"
                target = self._database.execute(query, (sample_key(record.link),)).fetchone()
                if target is None:
                    lost.append(record.name)
                    continue
                record = record._replace(file=os.fsdecode(target[0]), offset=target[1], size=target[2], state=target[3])
            elif record.data is not None:
                file, offset = spool.add(position, record.data) if spool else (record.file, 0)
                record = record._replace(file=file, offset=offset, size=len(record.data), state="")
            self._insert(key, record, origin, position)
        self._database.execute("CREATE INDEX IF NOT EXISTS by_position ON samples (position, key)")
        self._database.commit()
        return lost

    def _insert(self, key: str, record: Record, origin: str, position: int) -> None:
        texts = (key, printable(record.name), record.wnid, os.fsencode(record.file))
        row = (*texts, record.offset, record.size, record.state, os.fsencode(origin), position)
        try:
            self._database.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:
            query = "SELECT source, origin FROM samples WHERE key = ?"
            source, other = self._database.execute(query, (key,)).fetchone()
            raise ShardError(
                f"two sources have the key {key}: {source} ({os.fsdecode(other)}) and {printable(record.name)} "
                f"({origin}); rename or remove one of them"
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
        for row in self._database.execute("SELECT key, wnid FROM samples ORDER BY position, key"):
            digest.update(f"{row[0]} {row[1]}\n".encode())
        return digest.hexdigest()

    def shards(self, samples_per_shard: int) -> Iterator[list[Sample]]:
        """The samples of each shard in turn."""
        query = (
            f"SELECT {_COLUMNS}, position FROM samples WHERE (position, key) > (?, ?) ORDER BY position, key LIMIT ?"
        )
        position, key = -1, ""
        while rows := self._database.execute(query, (position, key, samples_per_shard)).fetchall():
            yield [_sample(row[:-1]) for row in rows]
            position, key = rows[-1][-1], rows[-1][0]

    def spread(self, count: int) -> Iterator[Sample]:
        """At most `count` samples, evenly spread over the packing order."""
        last = self._database.execute("SELECT max(position) FROM samples").fetchone()[0]
        query = f"SELECT {_COLUMNS} FROM samples WHERE position >= ? ORDER BY position, key LIMIT 1"
        rows = (self._database.execute(query, (last * number // count,)).fetchone() for number in range(count))
        yield from map(_sample, dict.fromkeys(rows))

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _sample(row: tuple[str, str, str, bytes, int, int, str]) -> Sample:
    return Sample(*row[:3], os.fsdecode(row[3]), *row[4:])


def shuffled_position(seed: int, key: str) -> int:
    """The position of a key in the shuffled order: a keyed 63-bit hash, so it depends on nothing but seed and key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") >> 1


class Spool:
    """Files in `folder` that pictures are appended to, each for a range of positions in the packing order.

    Those of a shuffled order are split into 64 ranges; others by `samples_per_shard`, so that a file is a shard's.
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

    def add(self, position: int, data: bytes) -> tuple[str, int]:
        """Append one picture; returns the file and the offset where it lies."""
        shift = 63 - _SHUFFLED_RANGES_BITS
        number = position >> shift if self._shuffled else position // self._samples_per_shard
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
