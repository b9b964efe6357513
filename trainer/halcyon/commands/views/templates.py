"""Pages and pictures from templates: a text in them is never markup, and has no control character."""

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from halcyon_api.printable import printable


def _printable(value: Any) -> Any:
    return printable(value) if type(value) is str else value


def rendered(package: str, name: str, *, finalize: Callable[[Any], Any] = _printable, **values: Any) -> str:
    """The text of a page or a picture.

    Args:
        package: The package whose folder ``templates`` has the template.
        name: Name of the template.
        finalize: Makes a value harmless that the template shows. What it returns is escaped as markup, unless it is
            a `markupsafe.Markup`.
        values: The names that it uses.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)
