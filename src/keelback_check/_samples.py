"""What a certificate says of its examples: copies among them, and what they stand for."""

import hashlib
import json
import zlib
from typing import Any

from keelback_check._numbers import count, need

ABOUT = {
    "test examples": ("the test distribution", "the data's distribution"),
    "fresh examples": ("the training distribution",),
    "examples of the PAC-Bayes bound": ("the training distribution",),
}
"""What the examples of a task are drawn from."""

ALONG = ("bits along the text", "errors along the text",
         "token bits along the text", "token errors along the text")  # fmt: skip


def notice(what: str, o: dict[str, Any]) -> str:
    """One sentence: what was found of copies among some examples, or that their code is paid."""
    need(what == "documents" or what in ABOUT, "examples of no kind that is known")
    if "code_bits" in o:
        need(set(o) == {"code_bits", "counted"}, "a code is paid for, so that copies do not matter")
        return (f"The model may have been trained on these documents: the "
                f"{count(o['code_bits'], 1)} bits of its code are paid for.")  # fmt: skip
    exact, within = count(o["exact"]), count(o["within"])
    near = "" if o["near"] is None else f" and {count(o['near'])} near"
    unlooked = " (near ones were not looked for)" if o["near"] is None else ""
    copies = f"{exact} exact{near} copies of training examples{unlooked} and {within} repeated"
    if o["drawn"] is True:
        need(o["near"] is o["policy"] is None, "copies by chance have neither near ones nor policy")
        return (f"The {what} are drawn independently by a program; by chance {exact} of them "
                f"coincide with training examples and {within} with each other.")  # fmt: skip
    need(o["drawn"] is False and o["policy"] in ("refuse", "drop", "allow"), "policy on copies")
    if exact == within == 0 and not o["near"]:
        return f"Among the {what} there are {copies} examples."
    if o["policy"] == "drop":
        return f"Left out of the {what}: {copies} examples."
    need(o["policy"] == "allow", "copies that were neither dropped nor allowed")
    return f"WARNING: among the {what} there are {copies} examples, counted as if they were new."


def about(statement: dict[str, Any], o: dict[str, Any]) -> list[str]:
    """What a statement may say that it is about."""
    kind, what = statement["kind"], statement["examples"]
    if kind in ALONG:
        return ["these documents"]
    dropped = o.get("policy") == "drop"
    if what == "documents":
        less = " less what copies the training documents" if dropped else ""
        if o.get("population") is None:
            return [f"the distribution of these documents{less}, taken to be independent draws "
                    "from it"]  # fmt: skip
        draw = f"a document drawn uniformly from the {count(o['population'], 2)} of the text"
        return [f"{draw} that are no copies" if dropped else draw]
    gibbs = what == "examples of the PAC-Bayes bound"
    need(kind == "constant" or (kind == "gibbs") == gibbs, "a statement on other examples")
    less = " less what copies the training examples" if dropped else ""
    return [f"{known}{less}" for known in ABOUT[what]]


def check_task(data: dict[str, Any]) -> None:
    """Whether examples are named, and called independent draws only where nothing was loaded."""
    need(set(data["sha256"]) == set(data["overlap"]), "examples without a hash, or a hash of none")
    drawn = any(o["drawn"] for o in data["overlap"].values())
    need(not drawn or data["fingerprint"] is None, "loaded data that a program is said to draw")


def check_texts(statement: dict[str, Any], o: dict[str, Any], certificate: dict[str, Any]) -> None:
    """Whether what a statement counts fits the text, the training text and the coded model."""
    need(statement["examples"] == "documents", "a language model is certified on documents")
    kind, evidence, data = statement["kind"], statement["evidence"], certificate["data"]
    text, training = data["text"], data["training"]
    documents, size = count(text["documents"], 1), count(text["bytes"], 1)
    if "code_bits" in o:
        need(training is None, "a code is paid for beside a training text")
        held = certificate["checkpoint"]["bytes"]
        paid = 8 * count(held, 1) + 2 * held.bit_length() - 1
        need(o["code_bits"] == paid, "the code is not as long as the file")
        kept = documents
        need(o["counted"] == kept, "documents that were not counted")
    else:
        need(training["sha256"] != text["sha256"], "the text is the training text")
        need(count(training["documents"], 1) <= count(training["bytes"], 1), "empty documents")
        drawn = o["population"] is not None
        need(not drawn or type(o["seed"]) is int, "documents are drawn without a seed")
        need(drawn or o["seed"] is None, "a seed without a draw")
        need(not (drawn and kind in ALONG), "documents that are drawn are no text")
        kept = o["population"] if drawn else o["counted"]
        copies = [o["exact"] + count(o["near"]), o["within"]]
        least, most = (max(copies), sum(copies)) if o["policy"] == "drop" else (0, 0)
        need(least <= documents - kept <= most, "documents that are neither counted nor copies")
    if kind == "n-gram":
        need(count(evidence["order"], 1) <= 3, "the order is none of 1, 2, 3")
        largest, contexts = evidence["largest"], 256 ** (evidence["order"] - 1)
        need(training is not None, "n-grams of the text itself")
        need(largest <= training["bytes"] <= largest * contexts, "a context is counted wrong")
    else:
        need(evidence["code_bits"] == o.get("code_bits", 0), "another code")
        check_alphabet(kind, evidence, certificate)
    if kind in ALONG:
        need(evidence["bytes"] <= size, "more bytes than the text has")
        need(kept < documents or evidence["bytes"] == size, "bytes that were not counted")


def check_alphabet(kind: str, evidence: dict[str, Any], certificate: dict[str, Any]) -> None:
    """Whether a statement is about bytes or tokens as the model that it is about reads them."""
    tokenizer = certificate["data"].get("tokenizer")
    of_tokens = kind.startswith("token ")
    need(of_tokens == (tokenizer is not None), "bytes and tokens are mixed up")
    need(of_tokens == ("vocab_size" in evidence), "bytes and tokens are mixed up")
    need(("tokens" in evidence) == (of_tokens and kind in ALONG), "tokens that are not counted")
    if of_tokens:
        need(set(tokenizer) == {"vocab_size", "merges", "sha256"}, "another kind of tokenizer")
        most = 256 + count(tokenizer["merges"], 1)
        need(256 < count(tokenizer["vocab_size"]) <= most, "more tokens than bytes and merges make")
        need(evidence["vocab_size"] == tokenizer["vocab_size"], "tokens of another tokenizer")


def check_tokenizer(content: bytes, tokenizer: dict[str, Any]) -> None:
    """Whether a coded model holds the merges whose hash the certificate gives."""
    _, start, rest = content.partition(b"\n")
    size = int.from_bytes(rest[:4], "little") if start else 0
    merges = json.loads(zlib.decompress(rest[4 : 4 + size])).get("merges", [])
    need(len(merges) == tokenizer["merges"], "another number of merges")
    packed = b"".join(token.to_bytes(2, "little") for pair in merges for token in pair)
    need(hashlib.sha256(packed).hexdigest() == tokenizer["sha256"], "other merges")
