"""Proofs: random walks, storms and the life of real workers."""

import pytest

pytest.register_assert_rewrite("tests.story.invariants", "tests.story.walk")
