"""Train a model over bytes or tokens, code it, and certify it on reviews: one model per command.

    python tools/certify_byte_model.py mamba --train TRAIN.parquet --test TEST.parquet \\
        --seconds 200 --out FOLDER

With `--tokens V` the model reads V tokens, which byte-pair encoding of the training reviews makes;
the merges are part of the coded model, and paid for with it.

Writes to FOLDER, one part after the other, and leaves out parts that are there already:

    model.keelback             the coded model, which is the whole model
    results.json               how it was trained
    trained.certificate.json   on the reviews that it was trained on; its code is paid for
    drawn.certificate.json     on reviews drawn from those held apart, less copies; --draw 0: none

Training ends by the clock. Exit code 0 where all parts are there.
"""

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from keelback.bounds import code_length
from keelback.certify import (
    Alphabet,
    CompressionRecipe,
    certify_language,
    compress,
    language_certificate,
    language_words,
    read_coded_model,
    sample_of,
)
from keelback.data.documents import Documents, read_documents
from keelback.device import default_device
from keelback.experiments.length.byte_lm import ByteLMConfig, build
from keelback.files import write_json
from keelback.progress import listening
from keelback.sweeps.provenance import provenance

BEGAN = time.monotonic()
_QUIET_SECONDS = 20
FAMILIES = ("mamba", "mamba2", "transformer")


def untrained(family: str, width: int, layers: int, seed: int, vocab_size: int = 256) -> Any:
    """A model; a transformer (of Llama's layers) is as large as a Mamba of the shape."""
    if family == "mamba":
        shape = ByteLMConfig(kind="mamba", d_model=width, n_layers=layers, d_state=16)
        return build(shape, vocab_size=vocab_size)
    if family == "mamba2":
        shape = ByteLMConfig(kind="mamba2", d_model=width, n_layers=layers, head_dim=32)
        return build(shape, vocab_size=vocab_size)
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=5 * width // 2 // 8 * 8,
        num_hidden_layers=max(1, round(0.56 * layers)),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def train(options: argparse.Namespace, coded: Path, documents: Documents) -> None:
    parts = [own.encode() for own in documents.texts]
    alphabet = Alphabet.trained(parts, options.tokens)
    text = torch.from_numpy(alphabet.joined(parts))
    per_byte = len(text) / documents.size
    model = untrained(
        options.family, options.width, options.layers, options.seed, alphabet.vocab_size
    )
    weights = sum(parameter.numel() for parameter in model.parameters())
    say(f"{options.family}: {weights} weights, {per_byte:.3f} tokens per byte")
    recipe = CompressionRecipe(
        bits=options.bits,
        steps=options.steps,
        batch=options.batch,
        seq_len=options.context + options.window,
        learning_rate=options.learning_rate,
        spread=options.spread,
        tokens=len(text),
        rank=options.rank,
        seed=options.seed,
        max_seconds=options.seconds,
    )

    def report(step: int, loss: float, bits: float) -> None:
        own = per_byte * loss / math.log(2)
        say(f"step {step}: {own:.3f} bits per byte, about {bits / 8:.0f} bytes")

    began = time.monotonic()
    found, losses = compress(
        model.to(options.device),
        text,
        recipe,
        context=options.context,
        window=options.window,
        alphabet=alphabet,
        report=report,
    )
    seconds = time.monotonic() - began
    size, count = len(found.to_bytes()), sum(run.values.size for run in found.tensors.values())
    write_json(
        coded.with_name("results.json"),
        {
            "provenance": made_by(),
            "family": options.family,
            "weights": weights,
            "coded_weights": count,
            "bytes": size,
            "bits_per_coded_weight": 8 * size / count,
            "recipe": vars(recipe),
            "steps": len(losses),
            "seconds": seconds,
            "last_bits_per_byte": per_byte * fmean(losses[-50:]) / math.log(2),
            **({"tokenizer": alphabet.as_dict(), "tokens": len(text)} if alphabet.merges else {}),
            "losses": losses[:: max(1, len(losses) // 200)],
            "text": documents.as_dict(),
        },
    )
    found.save(coded)
    say(f"{coded.name}: {size} bytes, {8 * size / count:.2f} bits for each of {count} weights")


def certify(
    options: argparse.Namespace, coded: Path, out: Path, text: Documents, training: Documents | None
) -> None:
    """On the training text with the code paid, or on documents drawn from those held apart."""
    read = read_coded_model(coded)
    documents = [own.encode() for own in text.texts]
    seen = None if training is None else [own.encode() for own in training.texts]
    sample = (
        sample_of(documents, code_bits=code_length(coded.stat().st_size))
        if seen is None
        else sample_of(
            documents, training=seen, policy="drop", draw=options.draw, seed=options.seed
        )
    )
    found = certify_language(
        read.build().to(options.device),
        sample,
        context=read.header.context,
        window=read.header.window,
        training=seen,
        attempt=options.attempt,
        alphabet=read.alphabet,
    )
    if not found.statements:
        say(f"nothing can be certified of {sum(map(len, documents))} bytes: {out} is not written")
        return
    certificate = language_certificate(
        found,
        coded=coded,
        text=text.as_dict(),
        training=None if training is None else training.as_dict(),
        made_by=made_by(),
    )
    write_json(out, certificate)
    say(f"wrote {out}")
    for words in [found.sample.notice(), *language_words(found)]:
        say(words)


def read(source: Path) -> Documents:
    """Documents of a file of reviews; with pyarrow where polars is not installed."""
    if find_spec("polars") is not None or source.suffix != ".parquet":
        return read_documents([source])
    import pyarrow.parquet  # type: ignore[import-untyped]

    column = pyarrow.parquet.read_table(source, columns=["text"])["text"]
    return Documents.of([text.replace("<br />", "\n") for text in column.to_pylist()])


def made_by() -> dict[str, Any]:
    return provenance(" ".join(["python tools/certify_byte_model.py", *sys.argv[1:]]))


@contextlib.contextmanager
def telling() -> Any:
    """What work does, a line now and then."""
    said, when = "", 0.0

    def listener(doing: str, done: float, whole: float) -> None:
        nonlocal said, when
        if doing != said or time.monotonic() - when > _QUIET_SECONDS:
            said, when = doing, time.monotonic()
            say(f"{doing} {done / whole:.0%}" if whole else doing)

    with listening(listener):
        yield


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("family", choices=FAMILIES)
    options.add_argument("--train", type=Path, required=True, help="reviews to train on")
    options.add_argument("--test", type=Path, required=True, help="reviews held apart")
    options.add_argument("--out", type=Path, required=True, help="folder")
    options.add_argument("--seconds", type=float, default=200.0, help="longest time to train")
    options.add_argument("--steps", type=int, default=10**9, help="most steps to train")
    options.add_argument("--width", type=int, default=384, help="d_model")
    options.add_argument("--layers", type=int, default=10, help="of a Mamba")
    options.add_argument("--tokens", type=int, default=256, help="of the model; 256 are the bytes")
    options.add_argument("--rank", type=int, default=8, help="of the coded change of a matrix")
    options.add_argument("--bits", type=float, default=4.0, help="per coded weight at the start")
    options.add_argument("--batch", type=int, default=64, help="windows per step")
    options.add_argument("--context", type=int, default=128, help="tokens before a window")
    options.add_argument("--window", type=int, default=384, help="tokens predicted at a time")
    options.add_argument("--learning-rate", type=float, default=4e-3, help="of Adam, its peak")
    options.add_argument("--spread", type=float, default=1.3, help="nats; weighs the code's length")
    options.add_argument("--draw", type=int, default=5000, help="documents to draw, or 0")
    options.add_argument("--first", type=int, help="documents of each file; all by default")
    options.add_argument("--attempt", type=int, default=1, help="on these documents")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default=default_device())
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    kept: dict[Path, Documents] = {}

    def documents(source: Path) -> Documents:
        if source not in kept:
            found = read(source)
            few = len(found) if options.first is None else min(options.first, len(found))
            kept[source] = found.take(range(few))
        return kept[source]

    def part(name: str, make: Callable[[Path], None]) -> None:
        out = options.out / name
        if out.exists():
            say(f"{out} is there")
        else:
            make(out)

    def trained(out: Path) -> None:
        certify(options, coded, out, documents(options.train), None)

    def drawn(out: Path) -> None:
        certify(options, coded, out, documents(options.test), documents(options.train))

    coded = options.out / "model.keelback"
    with telling():
        part(coded.name, lambda out: train(options, out, documents(options.train)))
        part("trained.certificate.json", trained)
        if options.draw:
            part("drawn.certificate.json", drawn)


if __name__ == "__main__":
    main()
