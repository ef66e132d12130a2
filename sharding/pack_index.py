"""The index of a job: every picture's key, class and where its bytes are, in packing order, in a database on disk.

So the memory that a job needs does not grow with the data set. Pictures of sources that can only be read in order are
spooled on the way: appended to one file, from which workers read them at random.
"""

import contextlib
import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from sharding.record import NUMBERED_NAME, Record, RejectedImage, ShardError, file_state, printable
from sharding.shard import sample_key

INDEX, SPOOL = "pack_index.sqlite", "spool"
_PLACE = "file, offset, size, state"
_COLUMNS = f"key, source, wnid, {_PLACE}"
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ELOOP)


class Sample(NamedTuple):
    """One picture to pack: its key, label and where its bytes are (`size` −1: the whole file).

    `state` is that of the file when it was listed (`file_state`), "" if it cannot change: a file of the spool.
    """

    key: str
    source: str
    label: int
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

    It lies in `folder`, with the spool; without one it is for this process only, and nothing is spooled.
    """

    def __init__(self, folder: Path | None, seed: int | None) -> None:
        self._folder, self._seed = folder, seed
        self._spool: IO[bytes] | None = None
        self._database = sqlite3.connect(str(folder / INDEX) if folder else "")
        self._database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS samples ({_COLUMNS}, origin, position, PRIMARY KEY (key)) WITHOUT ROWID"
        )

    def fill(self, records: Iterable[Record]) -> list[str]:
        """Store all records; returns links to what is not there. Raises ShardError for a key that comes twice."""
        lost = []
        for number, record in enumerate(records):
            key, where = sample_key(record.name), (os.fsencode(record.file), record.offset, record.size, record.state)
            position = number if self._seed is None else shuffled_position(self._seed, key)
            if record.link:
                where = self._row(f"SELECT {_PLACE} FROM samples WHERE key = ?", sample_key(record.link))
                if where is None:
                    lost.append(record.name)
                    continue
            elif record.data is not None and self._folder:
                self._spool = self._spool or (self._folder / SPOOL).open("wb")
                where = (os.fsencode(self._spool.name), self._spool.tell(), len(record.data), "")
                self._spool.write(record.data)
            row = (key, printable(record.name), record.wnid, *where, os.fsencode(record.file), position)
            try:
                self._database.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                source, other = self._row("SELECT source, origin FROM samples WHERE key = ?", key)
                both = f"{source} ({os.fsdecode(other)}) and {printable(record.name)} ({record.file})"
                raise ShardError(f"two sources have the key {key}: {both}; rename or remove one of them") from None
        self._database.execute("CREATE INDEX IF NOT EXISTS by_position ON samples (position, key)")
        self._database.commit()
        if self._spool:
            self._spool.flush()
        return lost

    def _row(self, query: str, *values: object) -> Any:
        return self._database.execute(query, values).fetchone()

    def __len__(self) -> int:
        return int(self._row("SELECT count(*) FROM samples")[0])

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
        """The classes that occur, sorted, each with one of its sources; "" is that which a ground truth must tell."""
        rows = self._database.execute("SELECT wnid, min(source) FROM samples GROUP BY wnid ORDER BY wnid")
        return dict(rows.fetchall())

    def digest(self) -> str:
        """Hex SHA-256 over all keys and classes in packing order: what a half-done job must find unchanged."""
        digest = hashlib.sha256()
        for row in self._database.execute("SELECT key, wnid FROM samples ORDER BY position, key"):
            digest.update(f"{row[0]} {row[1]}\n".encode())
        return digest.hexdigest()

    def shards(self, samples_per_shard: int, labels: dict[str, int]) -> Iterator[list[Sample]]:
        """The samples of each shard in turn; `labels` tells that of each wnid."""
        after = "WHERE (position, key) > (?, ?) ORDER BY position, key LIMIT ?"
        query = f"SELECT {_COLUMNS}, position FROM samples {after}"
        position, key = -1, ""
        while rows := self._database.execute(query, (position, key, samples_per_shard)).fetchall():
            yield [_sample(row[:-1], labels[row[2]]) for row in rows]
            position, key = rows[-1][-1], rows[-1][0]

    def probe(self, count: int) -> Iterator[bytes]:
        """The bytes of at most `count` pictures, evenly spread over the packing order, if they can be read."""
        last = self._row("SELECT max(position) FROM samples")[0]
        query = f"SELECT {_COLUMNS} FROM samples WHERE position >= ? ORDER BY position, key LIMIT 1"
        rows = (self._row(query, last * number // count) for number in range(count))
        for row in dict.fromkeys(rows):
            with contextlib.suppress(RejectedImage):
                yield _sample(row, label=-1).read()

    def close(self) -> None:
        """Close the database and the spool."""
        self._database.close()
        if self._spool:
            self._spool.close()


def _sample(row: Any, label: int) -> Sample:
    key, source, _, file, *where = row
    return Sample(key, source, label, os.fsdecode(file), *where)


def shuffled_position(seed: int, key: str) -> int:
    """The position of a key in the shuffled order: a keyed 63-bit hash, so it depends on nothing but seed and key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(digest, "big") >> 1
