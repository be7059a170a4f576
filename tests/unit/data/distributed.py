"""Data sets as they are distributed: the hand-made files of tests/fixtures with their clips, and tables made here."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.config.sections.data import ColumnsConfig
from tests.unit.data.media import media_bytes, noise, sound_bytes

FIXTURES = Path(__file__).parents[2] / "fixtures"


def wav(seconds=0.5, seed=0):
    return sound_bytes("WAV", "PCM_16", noise(seconds, seed=seed))


def film(seconds=1.0, seed=0):
    return media_bytes("mp4", "aac", noise(seconds, seed=seed), video=True)


def put(folder, **contents):
    """Writes files; a double underscore in a name stands for the dot before its suffix."""
    for name, content in contents.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def copied(name, folder):
    """A fixture's files of questions, in a folder of their own."""
    target = folder / name
    shutil.copytree(FIXTURES / name, target)
    return target


def avqa(folder):
    """The file of questions and the folder of clips: AVQA's own names, R1-AQA's, and a video."""
    root = copied("avqa", folder)
    put(root / "audio", **{"-HG3Omg_89c_000030.wav": wav(), "_y_1_3.wav": wav(), "0Xa2_TsVyzA_000110.mp4": film()})
    return root / "train_qa.json", root / "audio"


def mmau(folder):
    root = copied("mmau", folder)
    for row in ("3fe64f3d-282c-4bc8-a753-68f8f6c35652", "40ba9eb2-9c16-4ad8-b2d9-0c2b2f2a5ee1"):
        put(root / "test-mini-audios", **{f"{row}.wav": wav()})
    for row in (
        "4b1e9b5a-6b9f-4a2e-8f30-6f2f3f8f0a11",
        "5c2d7e61-1d0e-4a43-9c3c-0c4b7d9e1f22",
        "6d3e8f72-2e1f-4b54-8d4d-1d5c8eaf2a33",
        "7e4f9a83-3f2a-4c65-9e5e-2e6d9fba3b44",
    ):
        put(root / "test-mini-audios", **{f"{row}.wav": wav()})
    return root / "mmau-test-mini.json"


def music_avqa(folder):
    root = copied("music_avqa", folder)
    put(root / "clips", **{"00000093.wav": wav(), "00000272.mp4": film(), "sa00007434.m4a": m4a()})
    return root / "avqa-test.json", root / "clips"


def m4a():
    return media_bytes("ipod", "aac", noise(0.5))


CLIP = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A clip in the tables of Hugging Face."""


COLUMNS = ColumnsConfig(id="key", question="prompt", answer="label", choices="options", audio="clip")
"""The columns of `table`."""


def table(clips, **columns):
    """Rows with a question each, an option list, and a clip in Hugging Face's form."""
    num = len(clips)
    columns = {
        "key": pa.array(range(num)),
        "prompt": pa.array([f"What is heard {i}?" for i in range(num)]),
        "options": pa.array([["dog", "cat"]] * num),
        "label": pa.array(["cat"] * num),
        "clip": pa.array(clips, CLIP),
    } | columns
    return pa.table(columns)


def parquet(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
