"""Names in a data set pick no file outside of its folders, whatever they are made of."""

import json
import os
import unicodedata

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.read import read_all, read_questions
from ssr1_rl.errors import UserError
from tests.unit.data.test_readers import AVQA_ROW
from tests.unit.data.test_row_values import MMAU

ROW = {"id": 1, "question": "Which?", "answer": "cat"}


@pytest.fixture
def world(tmp_path):
    """Clips in clips/inner, and files that are nobody's business beside it."""
    for name in ("secret.wav", "clips/a.wav", "clips/inner/b.wav", "clips2/c.wav", "elsewhere/d.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "clips" / "link.wav").symlink_to(tmp_path / "secret.wav")
    (tmp_path / "clips" / "linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path


def read(world, name, **settings):
    """Reads one row that names a clip."""
    file = world / "rows.jsonl"
    file.write_text(json.dumps(ROW | {"audio": name}))
    return read_all(DatasetConfig(format="jsonl", path=str(file), audio_dir=str(world / "clips"), **settings))


OUTSIDE = [
    "../secret.wav",
    "inner/../../secret.wav",
    "./../secret.wav",
    "..//secret.wav",
    "../clips2/c.wav",
    "linked/../../secret.wav",
    "../../../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "../clips/../secret.wav",
    "..",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leaves_the_folder_is_a_row_error(world, name):
    result = read(world, name)
    assert not result.questions
    (skipped,) = result.skipped
    assert skipped.field == "audio"
    assert skipped.reason == (
        f"{name!r} leads outside of {world}/clips; set audio_dir to a folder that holds every clip, or "
        "allow_outside_paths=true if you trust this file"
    )


def test_an_absolute_name_beside_the_folder_that_begins_as_it_does_is_outside(world):
    (skipped,) = read(world, f"{world}/clips2/c.wav").skipped
    assert "leads outside of" in skipped.reason


TRICKS = [
    "..\\secret.wav",
    "inner\\..\\..\\secret.wav",
    "\\etc\\passwd",
    unicodedata.normalize("NFD", "é/../../sécret.wav"),
    "\uff0e\uff0e/secret.wav",
    "\u2025/secret.wav",
    "..\uff0fsecret.wav",
    "..\u2215secret.wav",
    "../secret.wav\x00.wav",
    "%2e%2e/secret.wav",
    "..%2fsecret.wav",
    "~/secret.wav",
    "$HOME/secret.wav",
    "file:///etc/passwd",
    "concat:../secret.wav|a.wav",
    " ../secret.wav",
    "....//secret.wav",
    "a.wav/../../secret.wav",
]


@pytest.mark.parametrize("name", TRICKS)
def test_other_spellings_of_a_way_out_find_nothing(world, name):
    result = read(world, name)
    assert not result.questions
    assert "differs only" not in result.skipped[0].reason, "an error does not list what is outside"


@pytest.mark.parametrize("name", OUTSIDE + TRICKS)
def test_nothing_outside_is_looked_at(world, name, monkeypatch):
    looked_at = []
    for function in ("stat", "lstat", "open", "scandir"):
        real = getattr(os, function)

        def noted(path, *args, real=real, **kwargs):
            looked_at.append(os.fspath(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(os, function, noted)
    read(world, name)
    monkeypatch.undo()
    secrets = (str(world / "secret.wav"), "/etc/passwd", str(world / "clips2" / "c.wav"))
    assert not [path for path in looked_at if isinstance(path, str) and os.path.normpath(path).startswith(secrets)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.wav", "clips/a.wav"),
        ("./inner//b.wav", "clips/inner/b.wav"),
        ("inner/../a.wav", "clips/a.wav"),
        ("../clips/a.wav", "clips/a.wav"),
        ("ABSOLUTE/inner/b.wav", "clips/inner/b.wav"),
        ("link.wav", "clips/link.wav"),
        ("linked/d.wav", "clips/linked/d.wav"),
        ("linked/../a.wav", "clips/a.wav"),
    ],
)
def test_names_that_stay_inside_and_the_user_s_own_links_are_read(world, name, found):
    (question,) = read(world, name.replace("ABSOLUTE", f"{world}/clips")).questions
    assert question.audio[0].path == f"{world}/{found}"


@pytest.mark.parametrize("name", ["../secret.wav", "ABSOLUTE/secret.wav", "inner/../../secret.wav"])
def test_a_setting_allows_them(world, name):
    (question,) = read(world, name.replace("ABSOLUTE", str(world)), allow_outside_paths=True).questions
    assert os.path.samefile(question.audio[0].path, world / "secret.wav")


def test_a_relative_folder_holds_absolute_names_too(world, monkeypatch):
    monkeypatch.chdir(world)
    (world / "rows.jsonl").write_text(json.dumps(ROW | {"audio": [f"{world}/clips/a.wav", "a.wav", "inner/../a.wav"]}))
    config = DatasetConfig(format="jsonl", path="rows.jsonl", audio_dir="clips")
    (question,) = read_all(config).questions
    assert [clip.path for clip in question.audio] == ["clips/a.wav"] * 3, "one file has one spelling"
    (world / "rows.jsonl").write_text(json.dumps(ROW | {"audio": "../secret.wav"}))
    assert "leads outside of clips" in read_all(config).skipped[0].reason


@pytest.mark.parametrize("format", ["avqa", "mmau", "music_avqa"])
def test_every_format_keeps_inside(world, format):
    music = {
        "question_id": 1,
        "video_id": "../secret",
        "type": '["Audio", "Counting"]',
        "question_content": "?",
        "templ_values": "[]",
        "anser": "one",
    }
    row = {
        "avqa": AVQA_ROW | {"video_name": "../secret"},
        "mmau": MMAU | {"audio_id": "../secret.wav"},
        "music_avqa": music,
    }[format]
    (world / "rows.json").write_text(json.dumps([row]))
    config = DatasetConfig(format=format, path=str(world / "rows.json"), audio_dir=str(world / "clips"))
    assert "leads outside of" in read_all(config).skipped[0].reason
    config.allow_outside_paths = True
    assert os.path.samefile(read_all(config).questions[0].audio[0].path, world / "secret.wav")


def test_a_whole_file_of_them_is_one_sentence(world):
    rows = [ROW | {"id": number, "audio": f"/data/{number}.wav"} for number in range(30)]
    (world / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"30 of 30 rows cannot be used for one reason.*allow_outside_paths=true") as e:
        read_questions(DatasetConfig(format="jsonl", path=str(world / "rows.jsonl")), 0.01)
    assert "\n" not in str(e.value)
