"""Reads the text of a launch file, and parses it; what is no text or no YAML is refused with its line."""

from pathlib import Path

import yaml

from ssr1_rl.errors import ConfigError

MAX_FILE_BYTES = 2**20


def text_of(path: Path) -> str:
    """The text of a launch file, without a byte order mark.

    Raises:
        ConfigError: there is no such file, or it is not UTF-8 text.
    """
    if str(path) == "-":
        raise ConfigError("launch file -: standard input cannot be read; give the path of a file")
    if not path.exists():
        raise ConfigError(f"launch file {path} does not exist (looked for in {Path.cwd()}); give its path")
    if path.is_dir():
        raise ConfigError(f"launch file {path} is a folder; give the file in it")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"launch file {path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB, so it is not a launch file")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in content:
        line = content[: max(0, content.find(b"\x00"))].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: holds NUL bytes, as UTF-16 and binary files do; save it as UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def composed(text: str, where: str, loader: type[yaml.SafeLoader]) -> yaml.Node | None:
    """The nodes of one YAML document; None if it is empty.

    Raises:
        ConfigError: it is not valid YAML; the message gives the line and, for slips that are known, the fix.
    """
    try:
        return yaml.compose(text, loader)
    except RecursionError as error:
        raise ConfigError(f"{where}: brackets are nested too deeply") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{where}:{line}: character #x{ord(text[error.position]):04x} is not allowed in YAML; remove it"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{where}:{line}: not valid YAML: {_problem(error, text, line)}") from error


def _problem(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.splitlines()
    near = "\n".join(lines[max(0, line - 2) : line])
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    if "{{" in near or "{%" in near:
        return (
            f"{problem}; templates ({{{{ … }}}}) are not filled in here: render the file first, or use ${{oc.env:NAME}}"
        )
    if "\t" in near:
        return f"{problem}; indent with spaces, not tabs"
    return problem
