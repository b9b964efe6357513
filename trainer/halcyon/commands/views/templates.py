"""Pages and pictures from templates: a text in them is never markup, and has no control character."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from halcyon_api.printable import printable


def rendered(package: str, name: str, **values: Any) -> str:
    """The text of a page or a picture.

    Args:
        package: The package whose folder ``templates`` has the template.
        name: Name of the template.
        values: The names that it uses.
    """
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)
