"""``work doctor``: what is wrong, what it means, what to do."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

import click

from celery_workmanager.app import WorkManager
from celery_workmanager.cli.common import FINE, TROUBLE, command, option
from celery_workmanager.cli.screen import Screen, clean, plural
from celery_workmanager.doctor import Check, Finding, Severity, examine

_LOOKS: dict[Severity, tuple[str, dict[str, Any]]] = {
    Severity.ERROR: ("✘", {"fg": "red"}),
    Severity.WARNING: ("!", {"fg": "yellow"}),
    Severity.NOTE: ("·", {"fg": "cyan"}),
}
_WIDTH = 100


@command("doctor")
@option(
    "-t", "--timeout", type=click.FloatRange(0, 60), default=1.0, show_default=True, metavar="SECONDS",
    help="How long to wait for workers to answer over the broker.",
)  # fmt: skip
def doctor_command(screen: Screen, manager: WorkManager, *, timeout: float) -> int:
    """Look for mistakes in configuration, store, nodes, queues and broker; change nothing.

    The exit code is 1 when there are errors or warnings; notes are only worth knowing.
    """
    checks = []
    for check in examine(manager, patience=timeout):
        checks.append(check)
        if not screen.as_json:
            _show(screen, check)
    counts = Counter(finding.severity for check in checks for finding in check.findings)
    if screen.as_json:
        screen.json(_document(checks))
    else:
        told = ", ".join(plural(counts[severity], severity.value) for severity in Severity if counts[severity])
        screen.say(f"{told}." if told else "Nothing to complain of.", bold=True)
    return FINE if all(check.is_fine for check in checks) else TROUBLE


def _show(screen: Screen, check: Check) -> None:
    worst = next((severity for severity in Severity if any(each.severity is severity for each in check.findings)), None)
    sign, style = ("✔", {"fg": "green"}) if worst in (None, Severity.NOTE) else _LOOKS[worst]
    screen.say(f"{sign} {check.name}", **style)
    if check.told:
        _wrapped(screen, "    ", 4, check.told)
    for finding in check.findings:
        _show_finding(screen, finding)


def _show_finding(screen: Screen, finding: Finding) -> None:
    sign, style = _LOOKS[finding.severity]
    title = f"  {sign} {finding.severity.name} "
    _wrapped(screen, screen.styled(title, **style), len(title), finding.seen)
    _wrapped(screen, "    ", 4, finding.means)
    _wrapped(screen, "    → ", 6, finding.do)


def _wrapped(screen: Screen, title: str, indent: int, text: str) -> None:
    """A paragraph beside its title."""
    room = max(30, min(screen.size[0] or _WIDTH, _WIDTH) - indent)
    first, *rest = textwrap.wrap(clean(text), room, break_long_words=False, break_on_hyphens=False)
    screen.say(title + first)
    for line in rest:
        screen.say(" " * indent + line)


def _document(checks: list[Check]) -> dict[str, Any]:
    findings = [
        {
            "check": check.name,
            "severity": finding.severity.value,
            "code": finding.code,
            "seen": finding.seen,
            "means": finding.means,
            "do": finding.do,
        }
        for check in checks
        for finding in check.findings
    ]
    return {
        "fine": all(check.is_fine for check in checks),
        "checks": [each.name for each in checks],
        "told": {each.name: each.told for each in checks if each.told},
        "findings": findings,
    }
