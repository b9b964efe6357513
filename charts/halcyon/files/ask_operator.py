"""`helm test`: is the operator ready, and does it tell its metrics? Usage: HOST PORT."""

import sys
import time
from http.client import HTTPConnection, HTTPException

PATIENCE_SECONDS = 60


def ask(host: str, port: int, path: str) -> str:
    """Return what the operator answers.

    Raises:
        OSError: It cannot be reached, or answers anything but 200.
    """
    connection = HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode()
    except HTTPException as error:
        raise OSError(f"{path}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"{path} answers {response.status}: {text.strip()}")
    return text


def main(host: str, port: int) -> None:
    """Ask until the answers are right, or say what is wrong with the last one."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            ask(host, port, "/readyz")
            if "halcyon_operator_build_info{" not in ask(host, port, "/metrics"):
                raise OSError("/metrics lacks halcyon_operator_build_info: something else answers")
        except OSError as error:
            if time.monotonic() > until:
                sys.exit(f"The operator at {host}:{port} is not well: {error}")
            time.sleep(1)
        else:
            break
    sys.stdout.write(f"The operator at {host}:{port} is ready and tells its metrics.\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
