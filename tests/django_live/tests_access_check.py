"""A rule that can't be used is told when the project starts."""

from __future__ import annotations

import pytest
from django.core.checks import run_checks

RULES = "tests.django_live.rules"


def complaints() -> list[str]:
    return [str(message) for message in run_checks() if message.id == "celery_workmanager.E101"]


pytestmark = pytest.mark.parametrize("alias", ["default"], indirect=True)


@pytest.mark.parametrize(
    "access", [f"{RULES}.nowhere", "nowhere.at_all", f"{RULES}.NOT_A_FUNCTION", f"{RULES}.of_one", f"{RULES}.later"]
)
def test_a_rule_that_is_none(kit, alice, paint, access):
    (complaint,) = complaints()

    assert (
        "expected setting workmanager_page_access to be the dotted path of a function(request, work_info)" in complaint
    )
    assert access in complaint


@pytest.mark.parametrize("access", [None, f"{RULES}.yes_please"])
def test_a_rule_or_none(kit):
    assert complaints() == []
