"""Pages of Markdown from the templates beside this file."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def page(name: str, **values: Any) -> str:
    """The text of a page.

    Args:
        name: Name of the template.
        values: The names that it uses.
    """
    environment = Environment(  # noqa: S701 - the page is Markdown
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(values)
