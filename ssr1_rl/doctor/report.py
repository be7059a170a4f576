"""Findings as text for people, or as JSON for machines."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from ssr1_rl.doctor.finding import Finding

MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "bold red")}


def print_findings(topic: str, findings: Sequence[Finding], console: Console) -> None:
    """Prints the findings of one topic; problems with why they matter and how to fix them."""
    console.print(Text(topic, style="bold"))
    for finding in findings:
        mark, style = MARKS[finding.level]
        console.print(Text("  ").append(mark, style).append(f"  {finding.what}"), soft_wrap=True)
        for label, text in (("why", finding.why), ("fix", finding.fix)):
            if text:
                console.print(Text(f"      {label}: {text}", style="dim" if label == "why" else ""), soft_wrap=True)


def as_json(findings: Mapping[str, Sequence[Finding]]) -> str:
    """Every finding with its topic, one JSON object."""
    return json.dumps(
        {topic: [dataclasses.asdict(finding) for finding in found] for topic, found in findings.items()}, indent=1
    )
