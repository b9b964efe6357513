"""The time of a training step on CPU: Halcyon's, and the compiled one of nanochat, in turns on one pinned processor.

Both models have the same number of blocks, width, heads, length, batch and vocabulary, float32, and random tokens. Two
of Halcyon's models are measured: `llama`, whose MLP has as many parameters as nanochat's, rounded up to a multiple of
16 features, and `apertus` with the activation of nanochat (relu2), norms of queries and keys, and an MLP without a
gate: its products all have the sizes of nanochat's.

Timed are, on Halcyon's side, the trainer's compiled step: loss, gradients, clipping, AdamW, the check for divergence;
and a program of loss and gradients alone. On nanochat's side: loss and gradients by the model under `torch.compile`,
then the step of its own optimizer and the release of the gradients. Its optimizer runs once with its default groups
(Muon and AdamW) and once with AdamW for all parameters. No side loads data. nanochat also has embeddings of values:
they add look-ups and parameters, but no products. Halcyon runs with the variables of the trainer's image; nanochat runs
in two processes, one without these variables, as a user starts it, and one with them.

    python tests/bench/bench_nanochat.py --nanochat CHECKOUT [--python PYTHON] [--rounds 15]

CHECKOUT is a checkout of karpathy/nanochat, PYTHON an interpreter with torch and filelock.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from step_turns import LARGE_PAGES, Halcyon, Peer, Sizes, in_turns, ratio, start_on_one_processor, table

CHILD = Path(__file__).with_name("nanochat_child.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with torch")
    for name, default in (
        ("depth", 4),
        ("width", 256),
        ("heads", 4),
        ("length", 256),
        ("batch", 8),
        ("vocabulary", 8192),
        ("rounds", 15),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if options.nanochat is None:
        print(
            "not compared: give a checkout of karpathy/nanochat with --nanochat, and an interpreter with torch with "
            "--python"
        )
        return
    start_on_one_processor()
    sizes = Sizes(options.vocabulary, options.length, options.batch)
    shape = {"hiddenSize": options.width}
    llama = {
        "numHiddenLayers": options.depth,
        "numAttentionHeads": options.heads,
        "intermediateSize": -(-options.width * 8 // 3 // 16) * 16,
    }
    apertus = {
        "numHiddenLayers": options.depth,
        "numAttentionHeads": options.heads,
        "intermediateSize": 4 * options.width,
    }
    ours = {
        "llama": Halcyon({"family": "llama"} | shape | llama, sizes),
        "apertus": Halcyon({"family": "apertus"} | shape | apertus | {"hiddenAct": "relu2"}, sizes),
    }
    turns = {f"{name} step": halcyon.step for name, halcyon in ours.items()}
    turns |= {f"{name} gradients": halcyon.gradients for name, halcyon in ours.items()}
    words = (
        options.nanochat,
        options.depth,
        options.width,
        options.heads,
        options.length,
        options.batch,
        options.vocabulary,
    )
    usual = {"NANOCHAT_DTYPE": "float32"}
    with (
        Peer(options.python, CHILD, words, usual) as first,
        Peer(options.python, CHILD, words, usual | LARGE_PAGES) as second,
    ):
        print(f"nanochat: {first.facts}")
        for name, halcyon in ours.items():
            print(f"{name}: {halcyon.parameters:,} parameters")
        peers = {"nanochat": first, "nanochat, huge pages": second}
        turns |= {f"{peer}, {case}": child.turn(case) for peer, child in peers.items() for case in ("adamw", "muon")}
        found = in_turns(turns, options.rounds)
    print(table(found, sizes.tokens))
    for name in ours:
        for peer in peers:
            print(f"{name} gradients / {peer}: {ratio(found, [f'{name} gradients'], [f'{peer}, adamw, gradients'])}")
            for case in ("adamw", "muon"):
                parts = [f"{peer}, {case}, {part}" for part in ("gradients", "optimizer")]
                print(f"{name} step / {peer}, {case}: {ratio(found, [f'{name} step'], parts)}")


if __name__ == "__main__":
    main()
