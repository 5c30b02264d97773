"""`keelback compress`: a language model as a short file, for a certificate that pays for it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keelback.cli.app import app, print_json, provenance_of_command
from keelback.cli.audit import hush_transformers
from keelback.cli.options import LARGEST_SEED, DeviceOrBest, Json, ModelName
from keelback.cli.progress import work_progress

Documents = Annotated[
    list[Path],
    typer.Option(
        help="Text that the model is trained on: a text file, a folder of text files, or a file "
        "of reviews (.parquet or .csv); may be repeated; e.g. reviews.parquet."
    ),
]


@app.command()
def compress(
    model: ModelName,
    text: Documents,
    out: Annotated[Path, typer.Option(help="New file for the coded model; e.g. tiny.keelback.")],
    tokens: Annotated[
        int,
        typer.Option(
            min=256,
            max=65_536,
            help="Number of tokens of the model: 256 means bytes; more are made by byte-pair "
            "encoding of --text, and the merges become part of the file; e.g. 1024.",
        ),
    ] = 256,
    bits: Annotated[
        float,
        typer.Option(
            min=0.25,
            max=12,
            help="Approximate number of bits per weight of a matrix at the start of the training.",
        ),
    ] = 3.0,
    rank: Annotated[
        int,
        typer.Option(
            min=0,
            help="Rank of the trained part of each matrix, the number of its dimensions; the other "
            "part is random, from the seed; 0 trains whole matrices.",
        ),
    ] = 0,
    steps: Annotated[int, typer.Option(min=0, help="Number of training steps.")] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="Number of windows per step.")] = 32,
    window: Annotated[
        int, typer.Option(min=1, help="Number of tokens that the model predicts at a time.")
    ] = 192,
    context: Annotated[
        int,
        typer.Option(min=1, help="Number of tokens that the model reads again before a window."),
    ] = 64,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Step size of Adam at its largest.")
    ] = 2e-3,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Longest time to train in seconds.")
    ] = 3600.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_SEED, help="Seed, a whole number, of the windows and random weights."
        ),
    ] = 0,
    device: DeviceOrBest = None,
    json: Json = False,
) -> None:
    """Train a language model over bytes or tokens with quantised weights, as a short file.

    The shorter the file, the less a certificate on the training text pays for it. The file is read
    back and must give the same weights.
    """
    import math
    from statistics import fmean

    import torch

    from keelback.audit import load_any_model
    from keelback.certify import Alphabet, CompressionRecipe, compress, require_alphabet
    from keelback.data.documents import read_documents
    from keelback.device import chosen_device
    from keelback.extras import require_extra
    from keelback.files import require_new_file
    from keelback.memory import require_memory

    require_extra("hf", "compress", ["transformers"])
    require_new_file(out, "--out", "a coded model")
    on = chosen_device(device)
    hush_transformers()
    made_by = provenance_of_command()
    documents = read_documents(text)
    require_memory(8.0 * batch * (context + window), "the tokens of a step")
    with work_progress("compress, loading"):
        loaded = load_any_model(model, device=on).model
        parts = [own.encode() for own in documents.texts]
        alphabet = Alphabet.trained(parts, tokens)
        require_alphabet(loaded, alphabet)
        read = alphabet.joined(parts)
    recipe = CompressionRecipe(
        bits=bits, rank=rank, steps=steps, batch=batch, seq_len=context + window,
        learning_rate=learning_rate, tokens=len(read), seed=seed, max_seconds=max_seconds,
    )  # fmt: skip
    with work_progress("compress"):
        coded, losses = compress(
            loaded, torch.from_numpy(read), recipe, context=context, window=window,
            alphabet=alphabet,
        )  # fmt: skip
    size = coded.save(out)
    weights = sum(run.values.size for run in coded.tensors.values())
    per_byte = len(read) / documents.size
    last = per_byte * fmean(losses[-50:]) / math.log(2) if losses else None
    found: dict[str, Any] = {
        "bytes": size, "coded_weights": weights, "bits_per_weight": 8 * size / weights,
        "steps": len(losses), "last_bits_per_byte": last, "text": documents.as_dict(),
    }  # fmt: skip
    if alphabet.merges:
        found["tokenizer"] = alphabet.as_dict()
    if json:
        print_json({"provenance": made_by, **found})
    else:
        said = "" if last is None else f"; about {last:.3f} bits per byte in the last steps"
        print(
            f"{out}: {size} bytes, {8 * size / weights:.2f} bits for each of {weights} coded "
            f"weights{said}"
        )
