"""rosbag2's sqlite3 files. An own reader: rosbags' takes ``%41`` in a path for an A, and so opens another recording."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

from .message_types import Channel, Stored


class SqliteFile:
    """One file beside which lies no journal, open; see ``McapFile`` for its attributes and methods."""

    def __init__(self, path: Path) -> None:
        self.path, self.note, self.ended = path, "", True
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
        try:
            self._connection.text_factory = lambda data: data.decode(errors="replace")
            select = self._connection.execute
            tables = {name for (name,) in select("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = {}
            if "message_definitions" in tables:
                wanted = "topic_type, encoding, encoded_message_definition"
                known = {name: rest for name, *rest in select(f"SELECT {wanted} FROM message_definitions")}
            counts = dict(select("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
            self.count = sum(counts.values())
            self.channels = [
                Channel(number, topic, kind, *known.get(kind, ("", "")), encoding, number in counts)
                for number, topic, kind, encoding in select("SELECT id, name, type, serialization_format FROM topics")
            ]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def span(self) -> tuple[int, int] | None:
        """First and last time of reception, ns; None without messages."""
        first, last = self._connection.execute("SELECT min(timestamp), max(timestamp) FROM messages").fetchone()
        return None if first is None else (first, last)

    def messages(
        self, topics: Collection[str], start_ns: int | None, stop_ns: int | None, heads: Collection[str] = ()
    ) -> Iterator[Stored]:
        """Messages of these topics received in [start, stop), in order of reception."""
        names = {channel.id: channel.topic for channel in self.channels if channel.topic in topics}
        query = f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({', '.join('?' * len(names))})"
        values = [*names]
        for limit, comparison in ((start_ns, ">="), (stop_ns, "<")):
            if limit is not None:
                query, values = f"{query} AND timestamp {comparison} ?", [*values, limit]
        for number, received_ns, data in self._connection.execute(f"{query} ORDER BY timestamp", values):
            yield Stored(names[number], received_ns, data)

    def written_times(self) -> Iterator[tuple[int, int]]:
        """Time of reception of every message, twice, in the order in which they were written."""
        yield from self._connection.execute("SELECT timestamp, timestamp FROM messages ORDER BY id")
