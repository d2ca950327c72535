"""All mutants."""

from __future__ import annotations

from tests.mutants.change_mutants import CHANGES
from tests.mutants.engine_mutants import ENGINE
from tests.mutants.mutant import Mutant
from tests.mutants.store_mutants import STORE

MUTANTS: tuple[Mutant, ...] = (*STORE, *CHANGES, *ENGINE)
