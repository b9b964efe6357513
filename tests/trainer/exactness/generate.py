"""`python -m tests.trainer.exactness.generate`: writes docs/exactness.md from the recorded figures."""

from __future__ import annotations

from tests.trainer.exactness.page import PAGE, page
from tests.trainer.exactness.record import read

if __name__ == "__main__":
    PAGE.write_text(page(read()), encoding="utf-8")
