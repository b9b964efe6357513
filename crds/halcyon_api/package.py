"""Name and version of the distribution that contains all packages of Halcyon. Its name differs from theirs."""

import importlib.metadata

DISTRIBUTION = "halcyon-train"
"""Name on the package index, where `halcyon` belongs to another project."""
_EXTRAS = {
    "PIL": "images",
    "cryptography": "prove",
    "kubernetes": "cli",
    "llguidance": "serve",
    "matplotlib": "report",
    "mlflow": "mlflow",
    "soundfile": "speech",
    "starlette": "serve",
    "tensorboardX": "tensorboard",
    "tokamax": "kernels",
    "trackio": "trackio",
    "uvicorn": "serve",
    "wandb": "wandb",
}
"""Extras of packages that the trainer can do without."""


def version() -> str:
    """The installed version; `unknown` if the packages are importable but not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def install(extra: str) -> str:
    """The command that installs an extra. No package index has the distribution yet, so it needs a checkout."""
    return f"pip install '.[{extra}]' in a checkout of Halcyon, which is not published yet"


def missing(module: str) -> str:
    """The sentence about a package that is not installed, with the extra that has it."""
    top = module.partition(".")[0]
    extra = _EXTRAS.get(top, "trainer")
    needs = "Python 3.12 or later and " if extra == "trainer" else ""
    return f"the package {top} is not installed; this needs {needs}{install(extra)}"
