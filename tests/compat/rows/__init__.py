"""The rows, a module a subject."""

from importlib import import_module

#: In the order of the page.
SUBJECTS = (
    "calling",
    "routing",
    "results",
    "retries",
    "hooks",
    "signals",
    "requests",
    "states",
    "limits",
    "options",
    "types",
    "callbacks",
    "canvas",
    "events",
    "eager",
)

for subject in SUBJECTS:
    import_module(f"{__name__}.{subject}")
