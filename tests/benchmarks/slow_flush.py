"""A disk that is slower than this one: a library, compiled at run time, that lets each flush take longer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

#: Preloaded into a process, each fsync and fdatasync sleeps first, as a disk across a network would.
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void linger(void) {
    const char *microseconds = getenv("WORKMANAGER_BENCH_SLOW_US");
    if (microseconds) usleep((useconds_t)atoi(microseconds));
}

#define SLOW(name)                                        \
    int name(int file) {                                  \
        static int (*real)(int);                          \
        if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        linger();                                         \
        return real(file);                                \
    }

SLOW(fsync)
SLOW(fdatasync)
"""


def library(folder: Path) -> Path:
    """Compile it into `folder`, for every user of this machine to load. Raises OSError without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no cc on the PATH")
    source, made = folder / "slow_flush.c", folder / "slow_flush.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made, source, "-ldl"], check=True, capture_output=True)
    folder.chmod(0o755)
    return made
