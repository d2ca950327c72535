"""Comparisons with the labels of a node."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_workmanager.errors import InvalidRequest
from celery_workmanager.node_labels import check_labels, contradictions, parse_label_rule

NODE = {"gpu": "a100", "region": "eu", "cpus": "8", "version": "1.5", "team.example.org/name": "blue"}


@pytest.mark.parametrize(
    ("rule", "is_met"),
    [
        ("gpu", True),
        ("tpu", False),
        ("!gpu", False),
        ("!tpu", True),
        ("gpu=a100", True),
        ("gpu=h100", False),
        ("tpu=v5", False),
        ("gpu!=a100", False),
        ("gpu!=h100", True),
        ("tpu!=v5", True),
        ("region in eu,us", True),
        ("region in us, asia", False),
        ("zone in a", False),
        ("region not in us,asia", True),
        ("region not in eu", False),
        ("zone not in a", True),
        ("cpus>=8", True),
        ("cpus>8", False),
        ("cpus<=8", True),
        ("cpus<8", False),
        ("cpus>7.5", True),
        ("version>=1.25", True),
        ("gpu>=1", False),  # no number
        ("tpus>=0", False),
        ("team.example.org/name=blue", True),
        ("inside=1", False),  # not "in side"
    ],
)
def test_a_rule_is_met_or_not(rule, is_met):
    assert parse_label_rule(rule).is_met(NODE) is is_met
    assert str(parse_label_rule(str(parse_label_rule(rule)))) == str(parse_label_rule(rule))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a non-empty str"),
        ("gpu=", "such as 'gpu=a100'"),
        ("=a100", "such as 'gpu=a100'"),
        ("gpu==a100", "such as 'gpu=a100'"),
        ("gpu a100", "such as 'gpu=a100'"),
        ("!gpu=a100", "such as 'gpu=a100'"),
        ("region in", "such as 'gpu=a100'"),
        ("region in eu,", "such as 'gpu=a100'"),
        ("gpu=a100;b", "such as 'gpu=a100'"),
        (None, "a non-empty str"),
        ("gpu=a,b", "one value after '='"),
        ("cpus>=many", "a number after '>='"),
    ],
)
def test_bad_syntax_is_refused_with_what_was_expected(text, expected):
    with pytest.raises(InvalidRequest, match=f"expected node label to be {expected}"):
        parse_label_rule(text)


def test_labels_of_a_node_become_text():
    assert check_labels("labels", {"cpus": 8, "ssd": True, "load": 1.5, "zone": "b"}) == {
        "cpus": "8",
        "ssd": "true",
        "load": "1.5",
        "zone": "b",
    }


@pytest.mark.parametrize("labels", [["gpu"], {"g pu": "x"}, {5: "x"}, {"gpu": ""}, {"gpu": None}, {"gpu": "a" * 64}])
def test_labels_that_no_rule_could_name_are_refused(labels):
    with pytest.raises(InvalidRequest, match="expected labels"):
        check_labels("labels", labels)


VALUES = ["a", "b", "1", "2", "3"]
RULES = st.one_of(
    st.sampled_from(["x", "!x"]),
    st.builds("x{}{}".format, st.sampled_from(["=", "!="]), st.sampled_from(VALUES)),
    st.builds("x{}{}".format, st.sampled_from([">=", "<=", ">", "<"]), st.sampled_from(VALUES[2:])),
    st.builds(
        "x {} {}".format,
        st.sampled_from(["in", "not in"]),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).map(",".join),
    ),
)
#: Every kind of label there is for these rules: none, each value, numbers beside and between them, and any other.
LABELS = [{}, *({"x": value} for value in (*VALUES, "0", "1.5", "2.5", "4", "other"))]


@given(st.lists(RULES, min_size=2, max_size=4))
def test_rules_contradict_each_other_when_no_label_meets_them(texts):
    rules = [parse_label_rule(text) for text in texts]
    can_be_met = any(all(rule.is_met(labels) for rule in rules) for labels in LABELS)
    assert contradictions(rules) == ([] if can_be_met else ["x"])
