"""The answers of a stage on disk, so that a stage that is killed at any moment asks for no stored answer again.

FOLDER/answers/fingerprint.json   what the answers depend on
FOLDER/answers/000000.parquet     answers in the order in which they came, PART_ROWS per file
FOLDER/failed.jsonl               rows without an answer, and why; they are asked again by the next start
FOLDER/set_aside/001/             an earlier `answers` folder, of another fingerprint
FOLDER/spent.json                 requests and tokens of an endpoint: `ssr1_rl.inference.budget`

The newest file is replaced as a whole whenever answers come, until it is full. So nothing is written half, and there
are no small files to merge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.errors import UserError
from ssr1_rl.files import replacing, write_json
from ssr1_rl.inference.request import Answer, Row

PART_ROWS = 1000
PARTS_IN_MEMORY = 8

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.string()),  # the row's digest
        ("text", pa.string()),
        ("num_prompt_tokens", pa.int64()),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("first_logprobs", pa.map_(pa.int64(), pa.float64())),
        ("prefill", pa.string()),
    ]
)


class Answers(Mapping[str, Answer]):
    """Answers by the key of their row, in the order of the rows; those of failed rows have an `error`.

    Only the keys are in memory. Files are read when an answer is asked for, and the newest `PARTS_IN_MEMORY` are kept,
    so reading in the order of the rows is fast.

    Attributes:
        failed: the error of each row without an answer, by its key.
    """

    def __init__(self, keys: Sequence[str], parts: Sequence[Path], failed: Mapping[str, str]) -> None:
        self.failed = failed
        self._parts = list(parts)
        self._keys = list(keys)
        self._places: dict[str, tuple[int, int]] = {}
        wanted = {_storable(key): key for key in keys}
        for part, path in enumerate(self._parts):
            for index, key in enumerate(_column(path, "key")):
                if key in wanted:
                    self._places[wanted[key]] = part, index  # a later answer replaces an earlier one
        self._read = lru_cache(maxsize=PARTS_IN_MEMORY)(lambda part: _read_part(self._parts[part]).to_pylist())

    def __getitem__(self, key: str) -> Answer:
        if key in self.failed:
            return Answer(key, error=self.failed[key])
        part, index = self._places[key]
        return _to_answer(key, self._read(part)[index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class AnswerStore:
    """Reads and writes the answers in a folder. One process at a time may hold it.

    Args:
        folder: of the stage; made if it is not there.
        rows: every row of the stage.
        fingerprint: what the answers depend on, in values that JSON holds.
        note: told what the user should know.

    Raises:
        UserError: two rows have the same key, or a file of answers cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row],
        fingerprint: Mapping[str, object],
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder = folder
        self._answers = folder / "answers"
        self._rows = {key_of(row): row for row in rows}
        _refuse_duplicates(rows)
        self._open(_as_json(fingerprint), note)
        self.failed: dict[str, str] = {}
        (folder / "failed.jsonl").unlink(missing_ok=True)
        self._parts = sorted(self._answers.glob(f"{'[0-9]' * 6}.parquet"))
        self._newest: list[dict[str, object]] = []
        if self._parts and _opened(self._parts[-1]).metadata.num_rows < PART_ROWS:
            self._newest = _read_part(self._parts[-1]).to_pylist()
        self._done = self._find_done(note)

    def _open(self, fingerprint: object, note: Callable[[str], None]) -> None:
        path = self._answers / "fingerprint.json"
        if self._answers.is_dir() and any(self._answers.glob("*.parquet")):
            before = json.loads(path.read_text()) if path.exists() else None
            if before == fingerprint:
                return
            kept_in = self._set_aside()
            note(f"answers of other settings are kept in {kept_in} ({_difference(before, fingerprint)})")
        self._answers.mkdir(parents=True, exist_ok=True)
        write_json(path, fingerprint)

    def _set_aside(self) -> Path:
        parent = self._folder / "set_aside"
        parent.mkdir(exist_ok=True)
        used = [int(path.name) for path in parent.iterdir() if path.name.isdecimal()]
        return self._answers.rename(parent / f"{max(used, default=0) + 1:03d}")

    def _find_done(self, note: Callable[[str], None]) -> set[str]:
        digests = {_storable(key): (key, row_digest(row)) for key, row in self._rows.items()}
        done, num_changed = set[str](), 0
        for path in self._parts:
            for key, digest in zip(_column(path, "key"), _column(path, "row"), strict=True):
                if key not in digests:
                    continue
                if digests[key][1] == digest:
                    done.add(digests[key][0])
                else:
                    num_changed += 1
                    done.discard(digests[key][0])
        if num_changed:
            note(f"{num_changed} stored answers belong to rows that have changed since; these rows are asked again")
        return done

    @property
    def num_done(self) -> int:
        """Rows with a stored answer."""
        return len(self._done)

    def pending(self) -> list[Row]:
        """The rows without a stored answer, in their order."""
        return [row for key, row in self._rows.items() if key not in self._done]

    def add(self, answers: Sequence[Answer]) -> None:
        """Stores answers; they are on disk when this returns. Those with an error go to failed.jsonl."""
        good = [answer for answer in answers if not answer.error]
        bad = [answer for answer in answers if answer.error]
        for answer in answers:
            assert answer.key in self._rows, f"no row has the key {answer.key!r}"
            assert answer.key not in self._done and answer.key not in self.failed, f"{answer.key!r} came twice"
        self._write(good)
        self._done.update(answer.key for answer in good)
        if bad:
            self.failed.update((answer.key, answer.error) for answer in bad)
            with (self._folder / "failed.jsonl").open("a") as file:
                file.writelines(json.dumps({"key": a.key, "error": a.error}) + "\n" for a in bad)

    def _write(self, answers: Sequence[Answer]) -> None:
        for start in range(0, len(answers), PART_ROWS):
            for answer in answers[start : start + PART_ROWS]:
                self._newest.append(_to_record(answer, row_digest(self._rows[answer.key])))
            if len(self._newest) == len(answers[start : start + PART_ROWS]):
                number = int(self._parts[-1].stem) + 1 if self._parts else 0
                self._parts.append(self._answers / f"{number:06d}.parquet")
            with replacing(self._parts[-1]) as file:
                pq.write_table(pa.Table.from_pylist(self._newest, SCHEMA), file)
            if len(self._newest) >= PART_ROWS:
                self._newest = []

    def answers(self) -> Answers:
        """What is stored now."""
        return Answers([key for key in self._rows if key in self._done or key in self.failed], self._parts, self.failed)


def key_of(row: Row) -> str:
    """The row's key.

    Raises:
        UserError: it has none.
    """
    key = row.get("key")
    if not isinstance(key, str) or not key:
        raise UserError(f"a row needs a text under `key`, got {key!r}")
    return key


def row_digest(row: Row) -> str:
    """Tells whether a row has changed since it was answered."""
    text = json.dumps(row, sort_keys=True, default=repr)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _refuse_duplicates(rows: Sequence[Row]) -> None:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        key = _storable(key_of(row))
        if key in seen:
            raise UserError(f"rows {seen[key]} and {number} have the same key {key!r}; keys must differ")
        seen[key] = number


def _storable(text: str) -> str:
    """Half of a surrogate pair, which JSON may hold, is no UTF-8: it is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _as_json(fingerprint: Mapping[str, object]) -> object:
    return json.loads(json.dumps(fingerprint, sort_keys=True))


def _difference(before: object, now: object) -> str:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return "they have no fingerprint"
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name}: {_short(before.get(name))} before, {_short(now.get(name))} now" for name in names)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _column(path: Path, name: str) -> list[str]:
    return _opened(path).read(columns=[name])[name].to_pylist()


def _read_part(path: Path) -> pa.Table:
    return _opened(path).read()


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); remove it, and the same command asks for its rows again"
        ) from error


def _to_record(answer: Answer, digest: str) -> dict[str, object]:
    return {
        "key": _storable(answer.key),
        "row": digest,
        "text": _storable(answer.text),
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_tokens": answer.num_tokens,
        "finish_reason": answer.finish_reason,
        "first_logprobs": list(answer.first_logprobs.items()),
        "prefill": answer.prefill,
    }


def _to_answer(key: str, record: Mapping[str, object]) -> Answer:
    fields = {name: record[name] for name in ("text", "num_prompt_tokens", "num_tokens", "finish_reason", "prefill")}
    return Answer(key, first_logprobs=dict(record["first_logprobs"]), **fields)  # type: ignore[arg-type]
