"""What a file of questions is if it is not JSON: named by its content, with the command that converts it."""

from __future__ import annotations

import json
import re
import shlex

_BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", "set the data set's format to parquet"),
    (b"ARROW1", "an Arrow file", "feather"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "set the data set's format to huggingface, and its path to the folder"),
    (b"PK\x03\x04", "a zip archive", "unpack it (unzip) and give the file in it"),
    (b"\x28\xb5\x2f\xfd", "packed with Zstandard", "unpack it (unzstd)"),
    (b"\xfd7zXZ", "packed with xz", "unpack it (unxz)"),
    (b"BZh", "packed with bzip2", "unpack it (bunzip2)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the file in it"),
    (b"Rar!", "a RAR archive", "unpack it and give the file in it"),
    (b"\x89HDF", "an HDF5 file", "write its rows as JSON lines"),
    (b"SQLite format 3", "an SQLite database", "write its rows as JSON lines"),
    (b"%PDF", "a PDF", "give the file of questions"),
    (b"RIFF", "a sound or video file", "give the file of questions"),
    (b"fLaC", "a sound file", "give the file of questions"),
    (b"OggS", "a sound file", "give the file of questions"),
    (b"ID3", "a sound file", "give the file of questions"),
    *((b"\x80" + bytes([version]), "a pickle of Python", "pickle") for version in range(2, 6)),
)
_READERS = ("feather", "pickle")
_LFS = "version https://git-lfs.github.com/spec/"


def other_binary(data: bytes, path: str) -> str:
    """Names a binary format, or text in UTF-16 or UTF-32, with what to do; empty for any other content."""
    for magic, what, fix in _BINARY:
        if data.startswith(magic):
            return f"is {what}, not JSON: " + (_convert(fix, path) if fix in _READERS else fix)
    if data[4:8] == b"ftyp":
        return "is a video or sound file, not JSON: give the file of questions"
    if data[257:262] == b"ustar":
        return "is a tar archive, not JSON: unpack it (tar -xf) and give the file in it"
    encoding = _wide_encoding(data)
    if encoding:
        return f"is {encoding} text; save it as UTF-8: {to_utf8(path, encoding)}"
    return ""


def other_text(text: str, path: str) -> str:
    """Names what a text is that holds no JSON, with what to do; empty if one of its first lines is an object."""
    lines = [line for line in text[:100_000].splitlines() if line.strip()][:100]
    if not lines or any(line.lstrip("\ufeff \t").startswith(("{", "[")) for line in lines):
        return ""
    if lines[0].startswith(_LFS):
        return "is a pointer of Git LFS, not the file itself: run `git lfs pull` in its folder"
    if lines[0].lstrip().startswith("<"):
        return "is a web page or XML, not JSON (perhaps the error page of a failed download): fetch it again"
    for delimiter, name in (("\t", "TSV"), (",", "CSV"), (";", "CSV")):
        if delimiter in lines[0] and all(delimiter in line for line in lines[:2]):
            return f"is {name}, not JSON: " + _convert("csv", path, "" if delimiter == "," else delimiter)
    if re.match(r"---|- |\w+:( |$)", lines[0]):
        return "looks like YAML, not JSON: write its rows as JSON lines"
    return f"is neither a JSON array nor JSON lines (it starts with {lines[0][:40]!r}): give the file of questions"


def to_utf8(path: str, encoding: str) -> str:
    """The command that writes a text file as UTF-8."""
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(path)} > {shlex.quote(path + '.utf8')}"


def _convert(reader: str, path: str, delimiter: str = "") -> str:
    source, target = json.dumps(path, ensure_ascii=False), json.dumps(path + ".jsonl", ensure_ascii=False)
    more = f", sep={json.dumps(delimiter)}" if delimiter else ""
    program = f'import pandas; pandas.read_{reader}({source}{more}).to_json({target}, orient="records", lines=True)'
    return f"convert it to JSON lines with python -c {shlex.quote(program)}"


def _wide_encoding(data: bytes) -> str:
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    even, odd = data[0:400:2].count(0), data[1:400:2].count(0)
    half = len(data[:400]) // 2
    if half and max(even, odd) > 0.4 * half and min(even, odd) < 0.1 * half:
        return "UTF-16LE" if odd > even else "UTF-16BE"
    return ""
