"""What this process's control group and its ancestors allow, as the files of cgroup versions 1 and 2 say."""

import contextlib
from pathlib import Path


def limits(controller, v2, v1, root="/"):
    """The limits of one controller that hold for this process, its ancestors' among them.

    Parameters
    ----------
    controller : str
        "cpu" or "memory".
    v2, v1 : (list of str, callable)
        Names of files, and what makes the limit of their words, or None of them.
    root : path
        Stands for / in tests.
    """
    root = Path(root)
    paths = {}
    try:
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths[controllers] = path.lstrip("/")
    except (OSError, ValueError):
        return []
    found = []

    def read(directory, names, parse):
        # an ancestor's limit holds as well; inside a container the path may not be visible, but the root is
        while True:
            with contextlib.suppress(OSError, ValueError, IndexError, ZeroDivisionError):
                value = parse(*((directory / name).read_text().split() for name in names))
                if value:
                    found.append(value)
            if directory == top:
                return
            directory = directory.parent

    if "" in paths:  # version 2
        top = root / "sys/fs/cgroup"
        read(top / paths[""], *v2)
    for controllers, path in paths.items():
        if controller in controllers.split(","):  # version 1
            top = root / "sys/fs/cgroup" / controllers
            if not top.exists():
                top = root / "sys/fs/cgroup" / controller
            read(top / path, *v1)
    return found
