"""Speed of tokenizing: several libraries on one core, alone and through Halcyon; and the costs of training and of very
long texts.

python tests/bench/bench_tokenizer.py [--megabytes 20] [--long 20000000]

Each text is encoded once, in a new process for each library, so that no cache holds it already. The ids are compared
with those of `tokenizers`. Libraries that are not installed are skipped: pip install gigatoken tokie kitoken
iree-tokenizer bpe-openai splintr-rs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.bpe import train_bpe
from halcyon.tokenizer.byte_level import SPELLINGS
from halcyon.tokenizer.tiktoken_encodings import ENCODINGS

ONE_CORE = {
    "RAYON_NUM_THREADS": "1",
    "FASTOKENS_BPE_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
Encode = Callable[[Sequence[str]], list[Any]]


def corpus(megabytes: float) -> list[str]:
    """Python's sources and the documentation of its packages, each file once."""
    texts: list[str] = []
    left = megabytes * 1e6
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(
        path for pattern in ("*.py", "*.rst", "*.md", "*.txt", "METADATA") for path in library.rglob(pattern)
    ):
        try:
            text = path.read_text()
        except (UnicodeDecodeError, OSError):
            continue
        if left <= 0:
            break
        if text:
            texts.append(text)
            left -= len(text)
    return texts


def by_halcyon(path: str) -> Encode:
    return load(TokenizerDefinition("tokenizerJson", Path(path).read_bytes())).encode_batch


def by_tokenizers(path: str) -> Encode:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(path)
    library.encode_special_tokens = True
    return lambda texts: [encoding.ids for encoding in library.encode_batch_fast(list(texts), add_special_tokens=False)]


def by_fastokens(path: str) -> Encode:
    import fastokens

    library = fastokens.Tokenizer.from_file(path)

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        ids, offsets = library.encode_batch_flat(list(texts), split_special_tokens=True)
        return np.split(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64)[1:-1].astype(np.int64))

    return encode


def by_gigatoken(path: str) -> Encode:
    import gigatoken

    library = gigatoken.Tokenizer(path)
    return lambda texts: [np.asarray(ids) for ids in library.encode_batch(list(texts), parallel=False)]


def by_tokie(path: str) -> Encode:
    import tokie

    library = tokie.Tokenizer.from_json(path)
    return lambda texts: [library.encode(text, add_special_tokens=False).ids for text in texts]


def by_kitoken(path: str) -> Encode:
    import kitoken

    library = kitoken.Kitoken.from_tokenizers(Path(path).read_bytes())
    return lambda texts: library.encode_all(list(texts))


def by_iree(path: str) -> Encode:
    from iree.tokenizer import Tokenizer

    library = Tokenizer.from_file(path)
    return lambda texts: [library.encode_to_array(text) for text in texts]


def by_splintr(path: str) -> Encode:
    import splintr

    library = splintr.from_json(path)
    return lambda texts: [np.frombuffer(library.encode_flat(text), np.uint32) for text in texts]


def by_tiktoken(path: str) -> Encode:
    import tiktoken

    document = json.loads(Path(path).read_bytes())
    byte_of = {character: byte for byte, character in enumerate(SPELLINGS)}
    vocabulary = {
        bytes(byte_of[character] for character in token): index for token, index in document["model"]["vocab"].items()
    }
    pattern = document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    library = tiktoken.Encoding("bench", pat_str=pattern, mergeable_ranks=vocabulary, special_tokens={})
    return lambda texts: [library.encode_to_numpy(text, disallowed_special=()) for text in texts]


LIBRARIES: dict[str, Callable[[str], Encode]] = {
    "halcyon": by_halcyon,
    "fastokens": by_fastokens,
    "gigatoken": by_gigatoken,
    "tokie": by_tokie,
    "kitoken": by_kitoken,
    "iree-tokenizer": by_iree,
    "splintr": by_splintr,
    "tiktoken": by_tiktoken,
    "tokenizers": by_tokenizers,
}


def groups(texts: Sequence[str], characters: int = 1 << 20) -> Iterator[list[str]]:
    """The texts in batches of about a megabyte, as in the data pipeline."""
    group: list[str] = []
    for text in texts:
        group.append(text)
        if sum(map(len, group)) >= characters:
            yield group
            group = []
    if group:
        yield group


def measure(name: str, path: str, megabytes: float) -> None:
    """Encode the corpus once, and print the measurements as JSON. Runs in a separate process."""
    texts = corpus(megabytes)
    batches = list(groups(texts))
    encode = LIBRARIES[name](path)
    encode(["warm up"])
    began, began_cpu = time.perf_counter(), time.process_time()
    encoded = [ids for batch in batches for ids in encode(batch)]
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    digests = [hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()[:12] for ids in encoded]
    size = sum(len(text.encode()) for text in texts)
    print(
        json.dumps(
            {
                "megabytes": size / 1e6,
                "seconds": seconds,
                "cpu": cpu,
                "digests": digests,
                "tokens": sum(map(len, encoded)),
            }
        )
    )


def compare(title: str, definition: TokenizerDefinition, megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tokenizer.json"
        path.write_bytes(definition.content)
        results: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name in LIBRARIES:
            command = [
                sys.executable,
                __file__,
                "--measure",
                name,
                "--tokenizer",
                str(path),
                "--megabytes",
                str(megabytes),
            ]
            done = subprocess.run(command, env={**os.environ, **ONE_CORE}, capture_output=True, text=True, check=False)
            if done.returncode:
                reasons[name] = done.stderr.strip().splitlines()[-1][:100]
            else:
                results[name] = json.loads(done.stdout.splitlines()[-1])
    expected = results["tokenizers"]["digests"]
    print(
        f"\n{title}: {results['tokenizers']['megabytes']:.1f} MB, {results['tokenizers']['tokens'] / 1e6:.2f} M "
        "tokens, one core"
    )
    for name, result in sorted(results.items(), key=lambda entry: entry[1]["cpu"]):
        wrong = sum(map(str.__ne__, result["digests"], expected))
        exact = "exact" if not wrong else f"{wrong} of {len(expected)} texts differ"
        speed, rate = result["megabytes"] / result["cpu"], result["tokens"] / result["cpu"] / 1e6
        print(f"  {name:<15} {speed:6.1f} MB/s a core, {rate:5.1f} M tokens/s  {exact}")
    for name, reason in reasons.items():
        print(f"  {name:<15} - {reason}")


def training(megabytes: float) -> None:
    texts = corpus(megabytes)
    size = sum(map(len, texts)) / 1e6
    for vocabulary in (8_192, 32_768):
        began = time.perf_counter()
        train_bpe(texts, vocabulary)
        seconds = time.perf_counter() - began
        print(f"train {vocabulary} tokens on {size:.1f} MB: {seconds:.1f} s, {size / seconds:.1f} MB/s")


def long_texts(definition: TokenizerDefinition, characters: int) -> None:
    tokenizer = load(definition)
    kinds = {
        "prose": "It is, to be sure, a truth; (12345) words\n",
        "one word": "a",
        "spaces": " ",
        "Korean": "한국어문장",
    }
    for name, unit in kinds.items():
        text = (unit * (characters // len(unit) + 1))[:characters]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        ids = tokenizer.encode(text)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"one text of {characters / 1e6:.0f} M characters, {name}: {seconds:.1f} s, {ids.size / 1e6:.0f} M tokens, "
            f"peak {before / 1024:.0f} -> {after / 1024:.0f} MiB"
        )


def with_pattern(definition: TokenizerDefinition, pattern: str) -> TokenizerDefinition:
    document = json.loads(definition.content)
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    return TokenizerDefinition("tokenizerJson", json.dumps(document).encode(), definition.options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--long", type=int, default=20_000_000, help="characters of the very long texts")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.tokenizer, arguments.megabytes)
        return
    training(arguments.megabytes)
    trained = train_bpe(corpus(arguments.megabytes), 32_768)
    compare("a tokenizer trained here, 32,768 tokens", trained, arguments.megabytes)
    for name in ("cl100k_base", "o200k_base"):
        compare(
            f"the same with the pattern of {name}", with_pattern(trained, ENCODINGS[name].pattern), arguments.megabytes
        )
    long_texts(trained, arguments.long)


if __name__ == "__main__":
    main()
