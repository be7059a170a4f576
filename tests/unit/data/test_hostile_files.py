"""Files that are not what a data set expects: named once; and rows that JSON allows but nothing else does."""

import gzip
import io
import json
import os
import tarfile
import unicodedata
import zipfile

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.read import read_questions
from ssr1_rl.errors import UserError
from tests.unit.data.test_readers import AVQA_ROW
from tests.unit.data.test_row_values import MMAU

ROW = {"id": 1, "question": "Which?", "answer": "cat"}
LINE = json.dumps(ROW)


@pytest.fixture
def write(tmp_path):
    """Writes a file of questions beside the clip of `AVQA_ROW`, and returns its settings."""
    (tmp_path / f"{AVQA_ROW['video_name']}.wav").touch()

    def write(content, format="jsonl", name="rows.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return DatasetConfig(format=format, path=str(path))

    return write


def lines(*rows):
    return "\n".join(map(json.dumps, rows)) + "\n"


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("rows.jsonl", LINE)
    return file.getvalue()


def tarred():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rows.jsonl"), io.BytesIO(b""))
    return file.getvalue()


def parquet():
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"id": [1], "question": ["Which?"]}), file)
    return file.getvalue()


OTHER_FILES = [
    (b"", "the file is empty"),
    (b" \n\n", "the file holds no rows"),
    (b"[]", "the file holds no rows"),
    (parquet(), "is a Parquet file, not JSON: set the data set's format to parquet"),
    (zipped(), "is a zip archive, not JSON: unpack it"),
    (tarred(), "is a tar archive"),
    (gzip.compress(tarred(), mtime=0), "is a tar archive"),
    (gzip.compress(LINE.encode(), mtime=0)[:-9], "is a damaged or truncated gzip file"),
    (b"BZh91AY&SY", "is packed with bzip2"),
    (b"\x28\xb5\x2f\xfd....", "is packed with Zstandard"),
    (b"\x00\x00\x00 ftypisom", "is a video or sound file"),
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", "is a sound or video file"),
    (LINE.encode("utf-16"), "is UTF-16 text; save it as UTF-8: iconv -f UTF-16 -t UTF-8"),
    (LINE.encode("utf-16-le"), "is UTF-16LE text"),
    (LINE.encode("utf-16-be"), "is UTF-16BE text"),
    (LINE.encode("utf-32"), "is UTF-32 text"),
    ('{"question": "Qué?"}'.encode("latin-1"), r"is not UTF-8 text (byte 16, in line 1)"),
    (b"id,question,answer\n1,Which?,cat\n", "is CSV, not JSON: convert it to JSON lines with python -c"),
    (b"id\tquestion\tanswer\n1\tWhich?\tcat\n", "is TSV, not JSON"),
    (b"id;question;answer\n1;Which?;cat\n", 'sep=";"'),
    (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is a web page or XML"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "is a pointer of Git LFS"),
    (b"- id: 1\n  question: Which?\n", "looks like YAML"),
    (b"hello", "is neither a JSON array nor JSON lines (it starts with 'hello')"),
    (b"null", "is neither a JSON array nor JSON lines"),
    (json.dumps({"data": [ROW]}).encode(), "write only the rows: jq '.data' FILE"),
    (json.dumps({"data": [ROW]}, indent=1).encode(), "write only the rows: jq '.data' FILE"),
    (json.dumps({"q1": ROW, "q2": ROW}).encode(), "write only the rows: jq '[.[]]' FILE"),
    ((json.dumps(ROW, indent=1) + "\n" + json.dumps(ROW, indent=1)).encode(), "spread over several lines"),
    (f"[{LINE}, {LINE[:20]}".encode(), "ends in the middle of row 2, which starts at line 1"),
    (f"[{LINE}] {LINE}".encode(), "text follows the end of the JSON array"),
]


@pytest.mark.parametrize(("content", "said"), OTHER_FILES)
@pytest.mark.parametrize("format", ["jsonl", "avqa", "mmau"])
def test_what_is_no_file_of_questions_is_named_once(write, content, said, format):
    config = write(content, format)
    with pytest.raises(UserError) as error:
        read_questions(config, 0.01)
    assert said in str(error.value)
    assert str(error.value).startswith(config.path) and str(error.value).count("\n") == 0


def test_a_command_that_converts_a_table_makes_readable_rows(write, tmp_path):
    import shlex
    import subprocess
    import sys

    config = write("id,question,answer\n1,Which?,cat\n", name="it's a table.csv")
    with pytest.raises(UserError) as error:
        read_questions(config, 0.01)
    command = shlex.split(str(error.value).partition("JSON lines with python ")[2])
    subprocess.run([sys.executable, *command], check=True)
    (question,) = read_questions(DatasetConfig(format="jsonl", path=config.path + ".jsonl"), 0.0).questions
    assert (question.id, question.ground_truth) == ("1", "cat")


def test_a_folder_is_no_file_of_questions(write, tmp_path):
    write(LINE, name="train.jsonl")
    with pytest.raises(UserError, match=r"is a folder; give the file of questions in it, such as .*train\.jsonl"):
        read_questions(DatasetConfig(format="jsonl", path=str(tmp_path)), 0.01)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("layout", ["array", "indented", "lines", "one line"])
@pytest.mark.parametrize("format", ["jsonl", "avqa"])
def test_every_format_is_read_as_an_array_or_as_lines_and_unpacked(write, pack, layout, format):
    rows = [(ROW if format == "jsonl" else AVQA_ROW) | {"id": number} for number in (1, 2)]
    if layout == "one line":
        rows = rows[:1]
    text = {"array": json.dumps(rows), "indented": json.dumps(rows, indent=1)}.get(layout) or lines(*rows)
    result = read_questions(write(pack(text.encode()), format), 0.0)
    assert [question.id for question in result.questions] == [str(row["id"]) for row in rows]


MUSIC = {"question_id": 1, "type": "[]", "question_content": "Is <X> heard?", "templ_values": "[]", "anser": "yes"}


@pytest.mark.parametrize(
    ("row", "format", "said"),
    [
        (MMAU, "avqa", r"its rows are those of format mmau .*format is avqa; set its format to mmau"),
        (MMAU, "jsonl", "set its format to mmau"),
        (AVQA_ROW, "jsonl", "set its format to avqa"),
        (AVQA_ROW, "mmau", "set its format to avqa"),
        (ROW, "avqa", "set its format to jsonl"),
        (MUSIC, "jsonl", "set its format to music_avqa"),
    ],
)
@pytest.mark.parametrize("layout", ["array", "lines"])
def test_the_rows_of_another_format_are_recognised(write, row, format, said, layout):
    rows = [row | {"id": number} for number in range(50)]
    text = json.dumps(rows) if layout == "array" else lines(*rows)
    with pytest.raises(UserError, match=said) as error:
        read_questions(write(text, format), 0.5)
    assert "\n" not in str(error.value)


HALF = '"id": 2, "question": "half \\ud83d", "answer": "x"'
BAD_ROWS = [
    ('{"id": 2, "question": ' + "[" * 100_000 + "]" * 100_000 + ', "answer": "x"}', "nested more than 100 levels deep"),
    ('{"id": 2, "question": "Which?", "answer": "x", "more": ' + "[" * 150 + "]" * 150 + "}", "nested more than 100"),
    ('{"id": 2, "question": "Which?", "answer": ' + "7" * 5000 + "}", "a number of 5,000 digits is too long"),
    ('{"id": 2, "question": "Which?", "answer": 1e999}', "the number '1e999' is too large"),
    ('{"id": 2, "question": "Which?", "answer": NaN}', "NaN is not JSON"),
    ('{"id": 2, "question": "Which?", "answer": "x", "score": -Infinity}', "-Infinity is not JSON"),
    ('{"id": 2, "question": "Which?", "answer": "x", "answer": "y"}', "has the key 'answer' twice"),
    ('{"id": 2, "question": "Which?", "answer": "x", "more": {"k": 1, "k": 2}}', "has the key 'k' twice"),
    ("{" + HALF + "}", "holds half of a surrogate pair ('\\ud83d')"),
    ("{" + HALF.replace("half ", "").replace('"id": 2', '"id": "\\udc00"') + "}", "half of a surrogate pair"),
    ('{"id": 2, "question": "Which?", "answer": "x\x00"}', "is not JSON at"),
    ('{"id": 2, "question": "Which?\t", "answer": "x"}', "is not JSON at"),
    ("{'id': 2, 'question': 'Which?', 'answer': 'x'}", "is not JSON at"),
    ('{"id": 2, "question": "Which?" "answer": "x"}', "is not JSON at"),
    ('{"id": 2, "question": "Which?, "answer": "x"}', "is not JSON at"),
    ('["a", "row"]', "expected an object, got ['a', 'row']"),
    ("2", "expected an object, got 2"),
    ('{"id": 2.5, "question": "Which?", "answer": "x"}', "expected a whole number or a text, got 2.5"),
    ('{"id": " ", "question": "Which?", "answer": "x"}', "expected a whole number or a text, got ' '"),
    ('{"id": 2, "question": "Which?", "answer": "x", "kind": ["a"]}', "expected a text, got ['a']"),
]


@pytest.mark.parametrize(("row", "said"), BAD_ROWS, ids=range(len(BAD_ROWS)))
@pytest.mark.parametrize("layout", ["array", "lines"])
def test_a_row_that_cannot_be_kept_as_it_is_is_named_and_the_others_read(write, row, said, layout):
    texts = [LINE, row, json.dumps(ROW | {"id": 3})]
    config = write("[" + ",\n".join(texts) + "]" if layout == "array" else "\n".join(texts))
    result = read_jsonl(config)
    assert [question.id for question in result.questions] == ["1", "3"]
    (skipped,) = result.skipped
    assert str(skipped).startswith(f"{config.path} row 2: ") and said in skipped.reason
    assert len(str(skipped)) < 400


@pytest.mark.parametrize("length", range(1, len(LINE)))
def test_a_last_line_cut_in_the_middle_is_a_row_error(write, length):
    result = read_jsonl(write(lines(ROW) + LINE[:length]))
    assert len(result.questions) == 1
    assert result.skipped[0].row == 2 and "if the file was cut there, fetch it again" in result.skipped[0].reason


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_line_ends_marks_and_odd_characters_change_nothing(write, end, start):
    texts = [
        json.dumps(ROW | {"id": i, "question": f"a\u2028b\x85c{i} \N{DOG}?"}, ensure_ascii=False) for i in range(3)
    ]
    result = read_jsonl(write(start + end.join([*texts[:2], "", start + texts[2]]) + end))
    assert result.skipped == []
    assert [question.text for question in result.questions] == [f"a\u2028b\x85c{i} \N{DOG}?" for i in range(3)]
    assert result.questions[2].source.endswith("row 4")


def test_rows_in_the_notation_of_python_are_one_sentence(write):
    with pytest.raises(UserError, match=r"20 of 20 rows cannot be used for one reason.*property name .*double quotes"):
        read_questions(write("\n".join(repr(ROW | {"id": i}) for i in range(20))), 0.01)


def test_a_comma_after_the_last_row_is_no_row(write):
    result = read_jsonl(write(f"[{LINE},\n]"))
    assert len(result.questions) == 1 and result.skipped == []


def test_every_row_says_what_is_there_instead_of_its_clip(write, tmp_path):
    (tmp_path / "inner").mkdir()
    rows = [ROW | {"id": number, "audio": name} for number, name in enumerate(["gone.wav", "inner", "inner"])]
    gone, *folders = read_jsonl(write(lines(*rows))).skipped
    assert "folder" not in gone.reason and all("that is a folder" in row.reason for row in folders)


def test_a_line_that_is_whole_is_not_taken_for_a_cut_one(write):
    (whole,) = read_jsonl(write('{"id": 1, "x": NaN}')).skipped
    assert "NaN is not JSON" in whole.reason and "cut" not in whole.reason
    (cut,) = read_jsonl(write('{"id": 1, "x": ')).skipped
    assert "if the file was cut there, fetch it again" in cut.reason


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match="is a device or a pipe"):
        read_questions(DatasetConfig(format="jsonl", path=str(tmp_path / "rows.jsonl")), 0.01)


def test_metadata_keeps_what_json_holds(write):
    further = {"pair": "\N{DOG}", "half": "\ud83d", "big": 10**400, "nul": "\x00", "deep": [[[]]], "": "empty key"}
    (question,) = read_jsonl(write(lines(ROW | further))).questions
    assert question.metadata == further


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_clip_is_found_in_either_unicode_form(write, tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    (tmp_path / unicodedata.normalize(form, "Bär.wav")).touch()
    (question,) = read_jsonl(write(lines(ROW | {"audio": unicodedata.normalize(other, "Bär.wav")}))).questions
    assert question.audio[0].path == str(tmp_path / unicodedata.normalize(form, "Bär.wav"))
    row = AVQA_ROW | {"video_name": unicodedata.normalize(other, "Bär")}
    (question,) = read_questions(write(json.dumps([row]), "avqa"), 0.0).questions
    assert question.audio[0].path == str(tmp_path / unicodedata.normalize(form, "Bär.wav"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dog.wav", "there is 'dog.wav', which differs only in capital letters"),
        ("dog.WAV", "which differs only in capital letters"),
        ("clips/dog.wav", "holds 'dog.wav' without its folder"),
        ("inner\\low.wav", "write the path with / instead of \\"),
        ("inner", "that is a folder"),
        ("dead.wav", "that is a link to a file that is not there"),
        ("pipe.wav", "that is no regular file"),
        ("low.wav", "inner: set the data set's audio_dir to that"),
        ("https://x.org/dog.wav", "is an address; download the clip"),
        ("", "expected the path of a clip, got ''"),
        ({"file": "dog.wav"}, "expected the path of a clip, got {'file': 'dog.wav'}"),
        ({}, "expected the path of a clip, got {}"),
        ({"bytes": None}, "expected the path of a clip, got {'bytes': None}"),
        ({"bytes": "UklGRg=="}, "expected the path of a clip, got {'bytes': 'UklGRg=='}"),
        ("dog.wav\x00", "no such file"),
        ("\ud83d.wav", "no such file"),
    ],
)
def test_a_clip_that_is_not_there_says_what_is(write, tmp_path, name, said):
    (tmp_path / "dog.wav").touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "low.wav").touch()
    os.symlink("nowhere", tmp_path / "dead.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    (skipped,) = read_jsonl(write(lines(ROW | {"audio": name}))).skipped
    assert skipped.field == "audio" and said in skipped.reason


@pytest.mark.parametrize("format", ["jsonl", "avqa", "mmau"])
def test_a_wrong_folder_of_clips_is_one_sentence(write, tmp_path, format):
    (tmp_path / "wrong").mkdir()
    row = {"jsonl": ROW | {"audio": "-HG3Omg_89c_000030.wav"}, "avqa": AVQA_ROW, "mmau": MMAU}[format]
    config = write(json.dumps([row | {"id": number} for number in range(30)]), format)
    config.audio_dir = str(tmp_path / "wrong")
    with pytest.raises(
        UserError, match=rf"30 of 30 rows cannot be used for one reason.*is audio_dir={tmp_path}/wr"
    ) as e:
        read_questions(config, 0.01)
    assert "\n" not in str(e.value)
    assert format == "mmau" or f"it is in {tmp_path}: set the data set's audio_dir to that" in str(e.value)


def test_the_suffix_of_an_avqa_clip_may_be_in_capitals(write, tmp_path):
    (tmp_path / "clip_000001.WAV").touch()
    row = AVQA_ROW | {"video_name": "clip_000001"}
    (question,) = read_questions(write(json.dumps([row]), "avqa"), 0.0).questions
    assert question.audio[0].path.endswith("clip_000001.WAV")


@pytest.mark.parametrize(
    ("second", "fix"), [({}, "for the same question; remove"), ({"question": "What?"}, "give it an id of its own")]
)
def test_a_repeated_id_says_whether_the_question_is_the_same(write, second, fix):
    result = read_jsonl(write(lines(ROW, ROW | {"id": "1"} | second)))
    assert fix in result.skipped[0].reason
