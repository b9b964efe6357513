"""`helm test`: checks that the operator is ready and serves its metrics. Usage: HOST PORT."""

import sys
import time
from http.client import HTTPConnection, HTTPException

PATIENCE_SECONDS = 60


def ask(host: str, port: int, path: str) -> str:
    """Return the body of the operator's answer.

    Raises:
        OSError: The operator cannot be reached, or the status is not 200.
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
    """Ask until both answers are right; exit with the last error after PATIENCE_SECONDS."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            ask(host, port, "/readyz")
            if "halcyon_operator_build_info{" not in ask(host, port, "/metrics"):
                raise OSError("/metrics lacks halcyon_operator_build_info: another program answers")
        except OSError as error:
            if time.monotonic() > until:
                sys.exit(f"The operator at {host}:{port} is not ready: {error}")
            time.sleep(1)
        else:
            break
    sys.stdout.write(f"The operator at {host}:{port} is ready and serves its metrics.\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
