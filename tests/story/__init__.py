"""Proofs: random walks, storms and the life of real workers."""

import pytest

pytest.register_assert_rewrite(
    "tests.story.invariants", "tests.story.walk", "tests.story.walk_base", "tests.story.walk_claims",
    "tests.story.walk_producers", "tests.story.walk_runs",
)  # fmt: skip
