"""Sphinx's roles in docstrings, such as :func:`conv2d`, as what Markdown has for them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(func|class|meth|mod):`([\w.]+)`")


class Roles(Extension):
    """Turns each role into a link to the entry in the reference, or code for what has none."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is None:
            return

        def markdown(match: re.Match[str]) -> str:
            role, name = match.groups()
            if role == "mod" or name.startswith("torch."):
                return f"`{name}`"
            scope = obj if role == "meth" and obj.is_class else obj.module
            path = name if name.startswith("convkern.") else f"{scope.path}.{name}"
            # The package has a module of that name too, and the entry is the function's.
            path = "convkern.explain.explain" if path == "convkern.explain" else path
            return f"[`{name}`][{path}]"

        obj.docstring.value = _ROLE.sub(markdown, obj.docstring.value)
