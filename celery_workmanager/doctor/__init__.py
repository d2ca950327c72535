"""What is wrong with a project, its store, its nodes and its broker: what was seen, what it means, what to do."""

from __future__ import annotations

from celery_workmanager.doctor.examination import Check, examine
from celery_workmanager.doctor.finding import Finding, Severity

__all__ = ["Check", "Finding", "Severity", "examine"]
