"""IMDb: every layout of the reviews gives the same tokens, and every bad file its own message."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from keelback.data import get_task
from keelback.data import hub as hub_module
from keelback.data.wordpiece import read_vocabulary
from keelback.errors import InputError

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "##s", "dull", "cafe", "."]
REVIEWS = {
    "train": [("A fine film.", 1), ("Dull DULL films", 0)],
    "test": [("a dull café\nfilm, a\tfilm", 0), ("fine", 1), ("[SEP] fine", 1)],
}
IDS = {
    "train": [[2, 4, 5, 6, 10, 3], [2, 8, 8, 6, 7, 3]],
    "test": [[2, 4, 8, 9, 6, 1, 4, 6, 3], [2, 5, 3], [2, 3, 5, 3]],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KEELBACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return path


def frame(split):
    texts, labels = zip(*REVIEWS[split], strict=True)
    return pl.DataFrame({"text": texts, "label": labels})


def write_hub_layout(root):
    (root / "plain_text").mkdir(parents=True)
    for split in REVIEWS:
        frame(split).write_parquet(root / "plain_text" / f"{split}-00000-of-00001.parquet")


def write_shards(root):
    root.mkdir()
    for split in REVIEWS:
        for i, shard in enumerate(frame(split).iter_slices(1)):
            shard.write_parquet(root / f"{split}-{i:05d}-of-00009.parquet")


def write_csv(root):
    root.mkdir()
    for split in REVIEWS:
        frame(split).write_csv(root / f"{split}.csv")


def write_csv_with_names_of_classes(root):
    root.mkdir()
    for split in REVIEWS:
        names = pl.col("label").replace_strict({0: "Neg", 1: "positive"}, return_dtype=pl.String)
        frame(split).with_columns(names).write_csv(root / f"{split}.csv")


@pytest.mark.parametrize(
    "write", [write_hub_layout, write_shards, write_csv, write_csv_with_names_of_classes]
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_layouts(tmp_path, vocabulary, write, split):
    write(tmp_path / "data")
    task = get_task("imdb", seq_len=9, data=tmp_path / "data", tokenizer=vocabulary)
    assert task.vocab_size == len(VOCABULARY)
    assert task.held_out
    result = task.split(split)
    assert result.tokens.tolist() == [ids + [0] * (9 - len(ids)) for ids in IDS[split]]
    assert result.labels.tolist() == [label for _, label in REVIEWS[split]]
    assert result.lengths.tolist() == [len(ids) for ids in IDS[split]]


@pytest.mark.parametrize("nested", ["", "aclImdb"])
def test_the_original_archive(tmp_path, vocabulary, nested):
    for split, reviews in REVIEWS.items():
        for i, (text, label) in enumerate(reviews):
            folder = tmp_path / "data" / nested / split / ("pos" if label else "neg")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}_7.txt").write_text(text, encoding="utf-8")
    task = get_task("imdb", seq_len=9, data=tmp_path / "data", tokenizer=vocabulary)
    assert task.split("test").labels.tolist() == [0, 1, 1]
    assert task.split("test").tokens[0].tolist() == IDS["test"][0]
    assert task.split("train").labels.tolist() == [0, 1]


def test_the_hub(tmp_path, vocabulary, monkeypatch, cache):
    """The libraries of the Hub are replaced: what is asked of them, and what is made of it."""
    import datasets
    import huggingface_hub

    asked = []

    def load_dataset(name, revision, split):
        asked.append((name, len(revision), split))
        return datasets.Dataset.from_polars(frame(split))

    def download(name, file, revision):
        asked.append((name, len(revision), file))
        return str(vocabulary)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub_module, "_reach_hub", lambda: None)
    task = get_task("imdb", seq_len=9)
    assert task.vocab_size == 30522
    assert task.split("test").tokens[0].tolist() == IDS["test"][0]
    assert asked == [
        ("stanfordnlp/imdb", 40, "test"),
        ("google-bert/bert-base-uncased", 40, "vocab.txt"),
    ]
    task.split("test")
    assert len(asked) == 2, "the second time everything comes from the cache"


def test_no_network(vocabulary, tmp_path, monkeypatch):
    def no_route():
        raise OSError("no route to host")

    monkeypatch.setattr(hub_module, "_reach_hub", no_route)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match=r"stanfordnlp/imdb .*no route to host.*--data PATH"):
        get_task("imdb", seq_len=9, tokenizer=vocabulary).split("test")
    write_csv(tmp_path / "data")
    with pytest.raises(InputError, match=r"vocabulary .*no route to host.*--tokenizer FILE"):
        get_task("imdb", seq_len=9, data=tmp_path / "data").split("test")


def test_truncation_and_padding_side(tmp_path, vocabulary):
    write_csv(tmp_path / "data")
    paths = {"data": tmp_path / "data", "tokenizer": vocabulary}
    tokens = get_task("imdb", seq_len=4, **paths).split("test").tokens
    assert tokens.tolist() == [[2, 4, 8, 3], [2, 5, 3, 0], [2, 3, 5, 3]]
    tokens = get_task("imdb", seq_len=4, padding_side="left", **paths).split("test").tokens
    assert tokens.tolist() == [[2, 4, 8, 3], [0, 2, 5, 3], [2, 3, 5, 3]]
    tokens = get_task("imdb", seq_len=2, **paths).split("test").tokens
    assert tokens.tolist() == [[2, 3]] * 3
    with pytest.raises(InputError, match="seq_len is 1"):
        get_task("imdb", seq_len=1, **paths)


def test_a_part_of_the_reviews_is_drawn_by_the_seed(tmp_path, vocabulary):
    many = pl.DataFrame({"text": ["a " * i for i in range(1, 41)], "label": [0, 1] * 20})
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        many.write_csv(tmp_path / "data" / f"{split}.csv")
    paths = {"seq_len": 50, "data": tmp_path / "data", "tokenizer": vocabulary}
    ten = get_task("imdb", n_train=10, data_seed=1, **paths).split("train")
    twenty = get_task("imdb", n_train=20, data_seed=1, **paths).split("train")
    assert torch.equal(ten.tokens, twenty.first(10).tokens)
    assert len(set(twenty.lengths.tolist())) == 20
    assert torch.equal(twenty.labels, (twenty.lengths - 2 + 1) % 2)
    other = get_task("imdb", n_train=10, data_seed=2, **paths).split("train")
    assert not torch.equal(ten.lengths, other.lengths)
    with pytest.raises(InputError, match="40 reviews in its train split, n_train asks for 41"):
        get_task("imdb", n_train=41, **paths).split("train")


def test_one_file_serves_for_evaluation_only(tmp_path, vocabulary):
    frame("test").write_csv(tmp_path / "some.csv")
    frame("test").write_parquet(tmp_path / "some.parquet")
    for name in ("some.csv", "some.parquet"):
        task = get_task("imdb", seq_len=9, data=tmp_path / name, tokenizer=vocabulary)
        assert len(task.split("test")) == 3
        with pytest.raises(InputError, match="one file: give a folder"):
            task.train_and_test()


class TestCache:
    @pytest.fixture
    def task(self, tmp_path, vocabulary):
        write_csv(tmp_path / "data")
        return get_task("imdb", seq_len=9, data=tmp_path / "data", tokenizer=vocabulary)

    def test_is_written_once_and_mapped(self, task, cache, monkeypatch):
        before = task.split("test")
        (entry,) = cache.iterdir()
        assert isinstance(task.tokenised("test").sequences.values, np.memmap)
        monkeypatch.setattr("keelback.data.imdb.WordPiece.encode", None)
        assert torch.equal(task.split("test").tokens, before.tokens)
        assert [path.name for path in cache.iterdir()] == [entry.name]

    def test_other_data_or_tokenizer_is_another_entry(self, task, tmp_path, vocabulary, cache):
        task.split("test")
        changed = frame("test").with_columns(pl.lit("dull").alias("text"))
        changed.write_csv(tmp_path / "data" / "test.csv")
        assert task.split("test").tokens[0].tolist() == [2, 8, 3] + [0] * 6
        vocabulary.write_text("\n".join([*VOCABULARY[:4], "dull"]), encoding="utf-8")
        other = get_task("imdb", seq_len=3, data=tmp_path / "data", tokenizer=vocabulary)
        assert other.split("test").tokens[0].tolist() == [2, 4, 3]
        assert len(list(cache.iterdir())) == 3

    @pytest.mark.parametrize("field", ["data", "tokenizer", "split", "format"])
    def test_an_entry_of_other_settings_is_detected(self, task, cache, field):
        task.split("test")
        (entry,) = cache.iterdir()
        meta = json.loads((entry / "meta.json").read_text())
        (entry / "meta.json").write_text(json.dumps(meta | {field: "other"}))
        with pytest.raises(InputError, match=rf"other settings \({field}\); delete .*imdb-test"):
            task.split("test")

    @pytest.mark.parametrize("name", ["values.npy", "offsets.npy", "labels.npy", "meta.json"])
    @pytest.mark.parametrize("damage", ["cut", "missing", "empty"])
    def test_a_damaged_entry_is_detected(self, task, cache, name, damage):
        task.split("test")
        (entry,) = cache.iterdir()
        content = (entry / name).read_bytes()
        (entry / name).unlink()
        if damage != "missing":
            (entry / name).write_bytes(content[:-5] if damage == "cut" else b"")
        with pytest.raises(InputError, match=r"cache is damaged .*delete .*imdb-test"):
            task.split("test")

    def test_arrays_of_different_entries_are_detected(self, task, cache):
        task.split("test")
        task.split("train")
        train, test = (next(cache.glob(f"imdb-{s}-*")) for s in ("train", "test"))
        (test / "labels.npy").write_bytes((train / "labels.npy").read_bytes())
        with pytest.raises(InputError, match="do not fit together"):
            task.split("test")

    def test_nothing_is_left_of_a_failed_attempt(self, task, cache, monkeypatch):
        def fail(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(np, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            task.split("test")
        assert list(cache.iterdir()) == []

    def test_a_folder_that_cannot_be_written(self, task, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("KEELBACK_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(InputError, match=r"cannot write the token cache .*KEELBACK_CACHE"):
            task.split("test")


class TestBadReviews:
    def complaint(self, tmp_path, vocabulary, data="data"):
        with pytest.raises(InputError) as caught:
            get_task("imdb", seq_len=9, data=tmp_path / data, tokenizer=vocabulary).split("test")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_nothing_there(self, tmp_path, vocabulary):
        assert "no file or folder" in self.complaint(tmp_path, vocabulary)

    def test_an_empty_folder(self, tmp_path, vocabulary):
        (tmp_path / "data").mkdir()
        message = self.complaint(tmp_path, vocabulary)
        assert "holds no test split: expected test-*.parquet (text, label)" in message

    def test_a_file_that_is_not_parquet(self, tmp_path, vocabulary):
        write_hub_layout(tmp_path / "data")
        file = tmp_path / "data/plain_text/test-00000-of-00001.parquet"
        file.write_bytes(file.read_bytes()[:100])
        assert f"{file} is not a whole Parquet file" in self.complaint(tmp_path, vocabulary)
        file.write_bytes(b"")
        assert f"{file} is not a whole Parquet file" in self.complaint(tmp_path, vocabulary)

    def test_wrong_columns(self, tmp_path, vocabulary):
        (tmp_path / "data.csv").write_text("review,sentiment\nfine,positive\n")
        message = self.complaint(tmp_path, vocabulary, "data.csv")
        assert "no column text and no column label; its columns are review, sentiment" in message

    @pytest.mark.parametrize("label", ["2", "-1", "1.0", "unsup", ""])
    def test_a_label_outside_the_classes(self, tmp_path, vocabulary, label):
        (tmp_path / "data.csv").write_text(f"text,label\nfine,1\nfine,{label}\n")
        message = self.complaint(tmp_path, vocabulary, "data.csv")
        assert "data.csv, row 2: label" in message
        assert "is neither 0 (negative) nor 1 (positive)" in message

    @pytest.mark.parametrize("text", ["", '""', '"  "'])
    def test_an_empty_text(self, tmp_path, vocabulary, text):
        (tmp_path / "data.csv").write_text(f"text,label\nfine,1\n{text},1\n")
        message = self.complaint(tmp_path, vocabulary, "data.csv")
        assert "data.csv, row 2: the text is empty" in message

    @pytest.mark.parametrize("content", [b"", b"text,label\n", b"\xff\xfe\x00", b'text,label\n"a'])
    def test_a_file_that_is_not_csv(self, tmp_path, vocabulary, content):
        (tmp_path / "data.csv").write_bytes(content)
        assert "data.csv" in self.complaint(tmp_path, vocabulary, "data.csv")

    def test_an_archive_without_one_of_the_classes(self, tmp_path, vocabulary):
        (tmp_path / "data/test/neg").mkdir(parents=True)
        (tmp_path / "data/test/neg/0_1.txt").write_text("dull")
        assert "test/pos holds no reviews (*.txt)" in self.complaint(tmp_path, vocabulary)
        (tmp_path / "data/test/pos").mkdir()
        (tmp_path / "data/test/pos/0_9.txt").write_text(" \n")
        assert "test/pos/0_9.txt: the text is empty" in self.complaint(tmp_path, vocabulary)
        (tmp_path / "data/test/pos/0_9.txt").write_bytes(b"\xff\xfe")
        assert "test/pos/0_9.txt is not UTF-8 text" in self.complaint(tmp_path, vocabulary)


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (["[CLS]", "[PAD]", "[UNK]", "[SEP]"], r"\[PAD\] is on line 2; it should be the first"),
        (["[PAD]", "[UNK]", "[CLS]"], r"lacks \[SEP\]"),
        ([*VOCABULARY, "a"], "line 12: token 'a' is already on line 5"),
        (["[PAD]", "", "a"], "line 2: the token is empty"),
        ([], r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\]"),
    ],
)
def test_bad_vocabularies(tmp_path, tokens, complaint):
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    with pytest.raises(InputError, match=complaint):
        read_vocabulary(tmp_path / "vocab.txt")


def test_a_vocabulary_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read the vocabulary"):
        get_task("imdb", seq_len=9, tokenizer=tmp_path / "vocab.txt")
    with pytest.raises(InputError, match="cannot read the vocabulary"):
        read_vocabulary(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_vocabulary(tmp_path)


SHARED = Path(__file__).parents[3] / "shared"
CHECKPOINT = SHARED / "reference/checkpoints/imdb_T500_seed1.pth"


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.skipif(not CHECKPOINT.exists(), reason="no reference data here")
def test_the_reference_checkpoint_scores_what_it_should():
    """One review has a logit of 4.0e-6 where others have tens; which side float32 puts it on
    depends on how the exponential rounds, so that the published .83444 is .83448 in exact
    arithmetic. Every other logit is 4e-4 or more away from zero."""
    from keelback.models import load_model

    model = load_model(CHECKPOINT)
    task = get_task(
        "imdb",
        seq_len=500,
        data=SHARED / "data/imdb",
        tokenizer=SHARED / "data/bert-base-uncased/vocab.txt",
    )
    assert task.vocab_size == 30522
    split = task.split("test")
    assert split.tokens.shape == (25_000, 500)
    with torch.no_grad():
        logits = torch.cat([model(tokens) for tokens in split.tokens.split(500)])
    closest = logits.abs().topk(2, largest=False)
    assert int(closest.indices[0]) == 24618
    assert float(closest.values[1]) > 4e-4
    right = (logits > 0) == split.labels
    right[24618] = False
    assert float(right.double().mean()) == pytest.approx(0.83444, abs=1e-9)
