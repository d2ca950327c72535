"""self.request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.compat.apps import task
from tests.compat.registry import Differs, Group
from tests.compat.side import Side, named

rows = Group("`self.request`")


@task(bind=True)
def show(self: Any, *names: str, **_: Any) -> dict[str, Any]:
    """Attributes of its own request, objects as text."""
    return {name: _plain(getattr(self.request, name)) for name in names}


@task(bind=True)
def show_retries(self: Any) -> Any:
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@task(bind=True)
def show_children(self: Any) -> Any:
    child = self.app.tasks["compat.add"].delay(1, 2)
    return [child.id, [each.id for each in self.request.children]]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _shown(side: Side, *names: str, **options: Any) -> Any:
    result = side.show.apply_async(names, **options)
    known = {**side.names_of(it=result), side.node: "node", side.facts.space: "queue"}
    return named(side.get(result), known)


@rows.row(
    "`id`, `correlation_id`, `root_id`, `parent_id`", plain="its own id, and where it comes from",
    expect={"id": "<it>", "correlation_id": "<it>", "root_id": "<it>", "parent_id": None}, postgresql=True,
)  # fmt: skip
def ids(side: Side) -> Any:
    return _shown(side, "id", "correlation_id", "root_id", "parent_id")


@rows.row("`task`", plain="the task’s name", expect={"task": "compat.show"})
def task_name(side: Side) -> Any:
    return _shown(side, "task")


@rows.row("`args`, `kwargs`", plain="as called", expect={"args": ["args", "kwargs"], "kwargs": {"z": 1}})
def arguments(side: Side) -> Any:
    return _shown(side, "args", "kwargs", kwargs={"z": 1})


@rows.row(
    "… of named parameters", plain="as called", expect={"args": [1], "kwargs": {"y": 2}},
    differs=Differs(shows={"args": [], "kwargs": {"x": 1, "y": 2}}, worker="by name, where every parameter has one",
                    because="So stored calls can be read, and outlive a change of the order of parameters."),
)  # fmt: skip
def named_arguments(side: Side) -> Any:
    return side.get(side.show_named.delay(1, y=2))


@task(bind=True)
def show_named(self: Any, x: int, y: int = 0) -> Any:
    return {"args": self.request.args, "kwargs": self.request.kwargs}


@rows.row("`retries`", plain="how often it was retried", expect=[{"retries": 0}, 2])
def retries(side: Side) -> Any:
    return [_shown(side, "retries"), side.get(side.show_retries.delay())]


@rows.row("`hostname`", plain="the worker’s name", expect={"hostname": "<node>"})
def hostname(side: Side) -> Any:
    return _shown(side, "hostname")


@rows.row(
    "`is_eager`, `called_directly`", plain="`False` on a worker", expect={"is_eager": False, "called_directly": False}
)
def eager(side: Side) -> Any:
    return _shown(side, "is_eager", "called_directly")


@rows.row(
    "`delivery_info`", plain="where the message came from; on Redis with a `priority` of 0",
    expect={"delivery_info": {"exchange": "", "routing_key": "<queue>", "priority": 0, "redelivered": False}},
    differs=Differs(
        shows={"delivery_info": {"exchange": "", "routing_key": "<queue>", "priority": None, "redelivered": False}},
        worker="the same; `priority` is `None` unless it was given, as on RabbitMQ", because="No broker adds one."),
)  # fmt: skip
def delivery_info(side: Side) -> Any:
    return _shown(side, "delivery_info")


@rows.row("… `priority`", plain="of the message", expect=3)
def delivery_priority(side: Side) -> Any:
    return _shown(side, "delivery_info", priority=3)["delivery_info"]["priority"]


@rows.row(
    "`timelimit`, `time_limit`, `soft_time_limit`", plain="as called, hard limit first",
    expect={"timelimit": [50, 40], "time_limit": 50, "soft_time_limit": 40},
    note="The single names: Celery 5.7.",
)  # fmt: skip
def timelimit(side: Side) -> Any:
    return _shown(side, "timelimit", "time_limit", "soft_time_limit", time_limit=50, soft_time_limit=40)


@rows.row("… of the task", plain="likewise", expect=[50, 40])
def declared_timelimit(side: Side) -> Any:
    return side.get(side.show_own_limits.delay())


@task(bind=True, time_limit=50, soft_time_limit=40)
def show_own_limits(self: Any) -> Any:
    return self.request.timelimit


@rows.row("… without limits", plain="a pair of `None`", expect={"timelimit": [None, None], "time_limit": None})
def no_timelimit(side: Side) -> Any:
    return _shown(side, "timelimit", "time_limit")


@rows.row("`eta`, `expires`", plain="moments in ISO 8601", expect=[True, True])
def eta_and_expires(side: Side) -> Any:
    eta = datetime.now(UTC) + timedelta(seconds=0.2)
    seen = _shown(side, "eta", "expires", eta=eta, expires=eta + timedelta(seconds=60))
    moments = [datetime.fromisoformat(seen[name]) for name in ("eta", "expires")]
    return [abs((moments[0] - eta).total_seconds()) < 1, 55 < (moments[1] - moments[0]).total_seconds() < 65]


@rows.row("… when not given", plain="`None`", expect={"eta": None, "expires": None})
def no_eta(side: Side) -> Any:
    return _shown(side, "eta", "expires")


@rows.row("`group`, `group_index`, `chord`, `chain`, `callbacks`, `errbacks`", plain="nothing, outside a canvas",
          expect={"group": None, "group_index": None, "chord": None, "chain": None, "callbacks": None, "errbacks": None})  # fmt: skip
def canvas(side: Side) -> Any:
    return _shown(side, "group", "group_index", "chord", "chain", "callbacks", "errbacks")


@rows.row(
    "`argsrepr`, `kwargsrepr`", plain="the arguments as text",
    expect={"argsrepr": "('argsrepr', 'kwargsrepr')", "kwargsrepr": "{'z': 1}"},
    differs=Differs(shows={"argsrepr": None, "kwargsrepr": None}, worker="`None`, unless they were given",
                    because="The arguments are there; their text is made when somebody looks."),
)  # fmt: skip
def reprs(side: Side) -> Any:
    return _shown(side, "argsrepr", "kwargsrepr", kwargs={"z": 1})


@rows.row(
    "`origin`", plain="process and host of the caller", expect=True,
    differs=Differs(shows=False, worker="`None`", because="Not stored with every work for the few who look."),
)  # fmt: skip
def origin(side: Side) -> Any:
    import os
    import socket

    return _shown(side, "origin")["origin"] == f"gen{os.getpid()}@{socket.gethostname()}"


@rows.row(
    "`reply_to`", plain="an id of the caller", expect=True,
    differs=Differs(shows=False, worker="`None`, unless it was given", because="Results are in the store; nobody replies."),
)  # fmt: skip
def reply_to(side: Side) -> Any:
    return bool(_shown(side, "reply_to")["reply_to"])


@rows.row(
    "`ignore_result`", plain="as called", expect=[{"ignore_result": False}],
    differs=Differs(shows=[{"ignore_result": True}], worker="always `True`",
                    because="It keeps Celery from storing the result: the store does."),
)  # fmt: skip
def ignore_result(side: Side) -> Any:
    return [_shown(side, "ignore_result")]


@rows.row("`headers`", plain="`None` or the headers of the call", expect=[True, "yes"])
def headers(side: Side) -> Any:
    without = _shown(side, "headers")["headers"]
    given = _shown(side, "headers", headers={"own": "yes"})["headers"]
    return ["own" not in (without or {}), given["own"]]


@rows.row("`request.<own header>`", plain="headers are attributes too", expect={"own": "yes"})
def header_attribute(side: Side) -> Any:
    return _shown(side, "own", headers={"own": "yes"})


@rows.row("`children`", plain="what the run has called so far", expect=True)
def children(side: Side) -> Any:
    child, known = side.get(side.show_children.delay())
    return known == [child]


@rows.row(
    "`shadow`, `stamps`, `stamped_headers`",
    plain="nothing, unless given",
    expect={"shadow": None, "stamps": {}, "stamped_headers": None},
)
def nothing_special(side: Side) -> Any:
    return _shown(side, "shadow", "stamps", "stamped_headers")


@rows.row("`replaced_task_nesting`", plain="how often it was replaced", expect={"replaced_task_nesting": 0})
def nesting(side: Side) -> Any:
    return _shown(side, "replaced_task_nesting")


@rows.row("`lang`", plain="of the message", expect={"lang": "py"})
def lang(side: Side) -> Any:
    return _shown(side, "lang")


@rows.row(
    "`properties`", plain="of the message", expect=["<it>"],
    differs=Differs(shows=[None], worker="`None`", because="There is no message."),
)  # fmt: skip
def properties(side: Side) -> Any:
    return [(_shown(side, "properties")["properties"] or {}).get("correlation_id")]
