"""The mutants still fit the text of today. They themselves are tried by `make mutants`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.mutants.__main__ import PAGE, SURVIVED, known
from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=[each.name for each in MUTANTS])
def test_each_takes_away_something_that_is_there_once(mutant: Mutant):
    assert mutant.count() == 1
    assert mutant.old != mutant.new
    changed = (ROOT / mutant.path).read_text().replace(mutant.old, mutant.new)
    compile(changed, str(mutant.path), "exec")
    missing = [each for each in mutant.tests if not (ROOT / "tests" / each.split("::")[0]).exists()]
    assert not missing


def test_each_has_a_name_of_its_own_and_was_noticed():
    assert max(Counter(each.name for each in MUTANTS).values()) == 1
    told = known()
    assert [each.name for each in MUTANTS] == list(told), f"expected the mutants of {PAGE.name}: run `make mutants`"
    assert not [name for name, found in told.items() if found.noticed_by == SURVIVED]
