"""Reads ``spec.model`` from a config.json.

Importing this module is cheap: JAX is imported only if a document names such a file.
"""

from pathlib import Path
from typing import Any

from halcyon_api.plain_files import user_path

_NAME = "config.json"


def read_model(config: str, folder: Path) -> dict[str, Any]:
    """The section of a model, as in a document.

    Args:
        config: The config.json or the folder with it: a path, which may be relative to the folder of the document,
            s3://, gs://, or hf://OWNER/NAME.
        folder: The folder of the document.

    Raises:
        BadConfiguration: It cannot be read, or is of a model that Halcyon does not have.
        TrainerExit: The store does not answer.
    """
    from halcyon.host.errors import BadConfiguration, DataUnreachable
    from halcyon.host.storage.failures import StoreFailure, as_exit
    from halcyon.host.storage.store import Store
    from halcyon.weights.folder import folder_place, read_config

    place, _, name = config.rpartition("/") if config.endswith(".json") else (config, "", _NAME)
    if "://" not in config:
        place = str(folder / user_path(place))
    try:
        store = Store(folder_place(place, only=(name,)))
        return read_config(store, name).spec.document()
    except (BadConfiguration, DataUnreachable) as error:
        raise type(error)(f"spec.model.configFile: {error}") from None
    except StoreFailure as failure:
        raise as_exit(failure, place, what="the folder of spec.model.configFile,", field="its path") from None
