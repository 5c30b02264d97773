"""`keelback certify --kind language`: bits per byte and errors of a coded language model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keelback.cli.app import print_json, provenance_of_command
from keelback.cli.progress import work_progress

if TYPE_CHECKING:
    from keelback.certify import LanguageCertification, Policy


def certify_text(
    checkpoint: Path,
    text: list[Path],
    training_text: list[Path],
    *,
    first: int | None,
    draw: int | None,
    seed: int,
    delta: float,
    attempt: int,
    policy: "Policy",
    device: str | None,
    certificate: Path | None,
    json: bool,
) -> None:
    """Certify a coded model on documents and print or write what is found.

    Raises:
        InputError: no text, no such device, a file that is no coded model, or copies among the
            documents.
        JobError: a certificate is wanted and every statement would say nothing.
    """
    from keelback.bounds import code_length
    from keelback.certify import (
        certify_language,
        language_certificate,
        read_coded_model,
        require_alphabet,
        sample_of,
    )
    from keelback.cli.audit import hush_transformers
    from keelback.data.documents import read_documents
    from keelback.device import chosen_device
    from keelback.errors import InputError, JobError
    from keelback.extras import require_extra
    from keelback.files import digest_of

    require_extra("certify", "--kind language")
    require_extra("hf", "--kind language", ["transformers"])
    if not text:
        raise InputError("--kind language needs --text FILE, the documents of the certificate")
    if policy != "refuse" and not training_text:
        raise InputError(
            "--allow-overlap and --drop-overlap have no effect without --training-text: the bound "
            "then grows with the size of the file, and holds whatever the model was trained on"
        )
    if draw is not None and not training_text:
        raise InputError(
            "--draw needs --training-text: it is for statements about a new document, which are "
            "vacuous where the bound grows with the size of the file"
        )
    on = chosen_device(device)
    hush_transformers()
    made_by = provenance_of_command()
    read = digest_of(checkpoint) if checkpoint.is_file() else None
    coded = read_coded_model(checkpoint)
    model = coded.build()
    require_alphabet(model, coded.alphabet)
    counted = read_documents(text)
    if first is not None:
        counted = counted.take(range(min(first, len(counted))))
    trained = read_documents(training_text) if training_text else None
    documents = [own.encode() for own in counted.texts]
    training = None if trained is None else [own.encode() for own in trained.texts]
    with work_progress("certify"):
        sample = sample_of(
            documents,
            code_bits=code_length(checkpoint.stat().st_size) if training is None else 0,
            training=training,
            policy=policy,
            draw=draw,
            seed=seed,
        )
        found = certify_language(
            model.to(on),
            sample,
            context=coded.header.context,
            window=coded.header.window,
            training=training,
            delta=delta,
            attempt=attempt,
            alphabet=coded.alphabet,
        )
    named: dict[str, Any] = {
        "text": counted.as_dict(),
        "training": None if trained is None else trained.as_dict(),
    }
    if certificate is not None and not found.statements:
        raise JobError(
            f"nothing can be certified: {found.sample.code_bits} bits of code are too many for "
            f"{counted.size} bytes of text; no certificate is written"
        )
    if certificate is not None:
        written = language_certificate(found, coded=checkpoint, made_by=made_by, **named)
        write_certificate(certificate, written, of=read)
    if json:
        if coded.header.merges:
            named["tokenizer"] = coded.alphabet.as_dict()
        print_json({"provenance": made_by, "model": str(checkpoint), **named, **found.as_dict()})
    else:
        _print(found)


def write_certificate(target: Path, certificate: Mapping[str, Any], *, of: str | None) -> None:
    """Write a certificate of the file whose hash was `of` when the model was read from it.

    Raises:
        JobError: the file has another hash now.
    """
    from keelback.errors import JobError
    from keelback.files import write_json

    checkpoint = certificate["checkpoint"]
    if checkpoint["sha256"] != of:
        raise JobError(
            f"{checkpoint['name']} was changed while it was certified; no certificate is written"
        )
    write_json(target, certificate)


def _print(found: "LanguageCertification") -> None:
    from keelback.certify import language_words
    from keelback.cli.terminal import console

    terminal = console()
    terminal.print(found.sample.notice())
    for words in language_words(found):
        terminal.print(words)
    measured: dict[str, Any] = found.measured
    ngrams = ", ".join(
        f"{bits:.4f} under the {n}-gram model" for n, bits in measured["ngrams"].items()
    )
    tokens = measured.get("tokens")
    terminal.print(
        f"Measured on these {measured['bytes']} bytes of {measured['documents']} documents"
        f"{'' if tokens is None else f', which are {tokens} tokens'}: "
        f"{measured['bits_per_byte']:.4f} bits per byte, {measured['error']:.4f} of the "
        f"{'bytes' if tokens is None else 'tokens'} wrong at the first guess; {ngrams}."
    )
    if "by_azuma" in measured:
        terminal.print(
            f"Confidence and code cost {measured['nats_paid_per_byte']:.3g} nats per byte of the "
            f"text; losses differ from their forecasts by {measured['spread']:.3f} bits (root mean "
            f"square). The bound along the text by Freedman: {measured['by_freedman']:.4f}, by "
            f"Azuma: {measured['by_azuma']:.4f} bits."
        )
    terminal.print(
        f"Each of these {len(found.statements)} statements holds with probability "
        f"{1 - found.delta:g} on its own, this being attempt {found.attempt} on these documents."
    )
