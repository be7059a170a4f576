"""Reads a Hugging Face data set: a folder that `save_to_disk` wrote, a folder of data files, or a name on the hub.

The columns are those of JSON lines, and the data set's `columns` may give each another name. Clips are taken as the
bytes that the data set holds and decoded as any other clip, so that no torchcodec is needed. Class labels become text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.columns import read_by_columns, used_columns
from ssr1_rl.data.records import Record
from ssr1_rl.data.rows import ReadResult
from ssr1_rl.data.tables import Columns, records_of
from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 64
"""Rows of which all clips are in memory at the same time."""

_SAVED = ("dataset_dict.json", "state.json")
"""Files by which a folder of `save_to_disk` is known."""


def read_huggingface(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        UserError: the data set cannot be loaded, its split is not given or not there, or a column that the settings
            name is missing.
    """
    dataset = _load(config)
    columns = Columns(dataset.features.arrow_schema, used_columns(config), config.path)
    result = read_by_columns(config, _records(dataset, columns, config.path), _folder(config))
    return replace(result, notes=(*result.notes, *columns.notes()))


def is_on_hub(path: str) -> bool:
    """Whether a path that does not exist can be the name of a data set on the hub."""
    return not path.startswith((".", "/", "~")) and path.count("/") <= 1


def _records(dataset: Dataset, columns: Columns, path: str) -> Iterator[Record]:
    start = 1
    # As Arrow tables: any other form would decode clips and pictures.
    for table in dataset.with_format("arrow").iter(_ROWS_AT_ONCE):
        yield from records_of(table, columns, start, path)  # type: ignore[arg-type]
        start += len(table)


def _folder(config: DatasetConfig) -> ClipFolder:
    """Where clips are that rows only name: in the folder of the data set, or where `datasets` keeps one of the hub."""
    if Path(config.path).exists():
        return ClipFolder(config)
    from datasets import config as settings
    from huggingface_hub.constants import HF_HUB_CACHE

    fetched = Path(HF_HUB_CACHE) / f"datasets--{config.path.replace('/', '--')}"
    return ClipFolder(config, path=fetched, also=(Path(settings.DOWNLOADED_DATASETS_PATH),))


def _load(config: DatasetConfig) -> Dataset:
    import datasets
    from datasets.exceptions import DatasetsError

    path = Path(config.path)
    try:
        if any((path / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(config.path)
        else:
            loaded = datasets.load_dataset(
                config.path, config.subset or None, split=config.split or None, revision=config.revision or None
            )
    except (OSError, ValueError, ImportError, DatasetsError) as error:
        raise UserError(f"{config.path}: {_why(error, config)}") from error
    if isinstance(loaded, datasets.Dataset):
        return loaded
    names = list(loaded)
    name = config.split or (names[0] if len(names) == 1 else "")
    if name not in loaded:
        problem = f"it has no split {name!r}" if name else "it has several splits"
        raise UserError(f"{config.path}: {problem}; set the data set's split to one of {', '.join(map(str, names))}")
    return loaded[name]


def _why(error: Exception, config: DatasetConfig) -> str:
    """Why a data set cannot be loaded, and what to do."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(cause, ImportError) and "torchcodec" in str(cause) for cause in causes):
        return (
            "datasets cannot read a folder of sound files without torchcodec; write its metadata as JSON lines, and "
            "read them with format=jsonl and columns={audio: file_name}"
        )
    reason = str(error).partition("\n")[0]
    if isinstance(error, ConnectionError) or "offline" in str(error).lower():
        offline = [name for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(name)]
        because = f"{offline[0]} is set" if offline else "the hub does not answer"
        return (
            f"is no folder here, and is not in the cache of the hub, where it is looked for because {because}; fetch "
            f"it where there is a network: hf download --repo-type dataset {config.path}"
        )
    return f"cannot be loaded: {reason}; set the data set's path, subset, split and revision right"
