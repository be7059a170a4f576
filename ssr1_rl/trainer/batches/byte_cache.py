"""A cache bounded in bytes."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

Entry = tuple[Tensor, int]
"""A clip's features, and its number of mel frames."""


class ByteCache:
    """Entries by key; beyond `max_bytes` of their tensors the least recently used go."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: Any) -> Entry | None:
        """The entry, which is now the most recently used one."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: Any, entry: Entry) -> None:
        """Keeps an entry under a new key, as far as there is room for it."""
        self._entries[key] = entry
        self.num_bytes += entry[0].nbytes
        while self.num_bytes > self._max_bytes:
            _, (tensor, _) = self._entries.popitem(last=False)
            self.num_bytes -= tensor.nbytes
