"""Error messages do not repeat a server's answer, because the message of the first process is shown in the run's
status.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halcyon.data.sources import Access
from halcyon.data.sources.access import parse_address
from halcyon.data.sources.failures import Unreadable
from halcyon.data.sources.remote import look_up
from halcyon.host.storage.failures import from_tensorstore
from tests.web import Handler, serving

PAGE = "internal-page-7f3a"


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers with the status that the path names."""

    class Answers(Handler):
        def get(self) -> None:
            self.answer(int(self.path.rpartition("/")[2]), f"{PAGE}\n{PAGE}".encode())

    with serving(Answers) as address:
        yield f"http://{address}"


@pytest.mark.parametrize("status", [400, 401, 403, 409, 418, 500])
def test_the_text_of_a_web_servers_refusal_is_not_shown(server: str, status: int) -> None:
    access = Access(max_retries=0, retry_seconds=1, pause_seconds=0)
    with pytest.raises(Unreadable) as caught:
        look_up(parse_address(f"{server}/{status}"), access)
    assert PAGE not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"PERMISSION_DENIED: Error reading s3://b/k: HTTP response code: 403 with body: {PAGE}",
        f"NOT_FOUND: no bucket <?xml version='1.0'?><Error><Message>{PAGE}</Message></Error>",
        f"UNKNOWN: HTTP response code: 302 <html>{PAGE}</html> [source locations='a.cc:1']",
        f"INTERNAL: failed [http_response_body='{PAGE}']",
    ],
)
def test_the_text_of_a_stores_refusal_is_not_shown(text: str) -> None:
    failure = from_tensorstore(ValueError(text))
    assert PAGE not in failure.text
    assert failure.text
