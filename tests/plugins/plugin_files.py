"""Plugin files for tests, as text."""

TASK = '''"""Parity of bits."""
import torch
from pydantic import Field
from keelback import register_task
from keelback.data import Split, Task, TaskSettings

class ParitySettings(TaskSettings):
    seq_len: int = Field(ge=1)
    n_train: int = Field(default=40, ge=1)
    n_test: int = Field(default=30, ge=1)

@register_task
class Parity(Task):
    name = "parity"
    settings_type = ParitySettings
    vocab_size = 2
    n_classes = 2

    def split(self, name):
        settings = self.settings
        count = settings.n_train if name == "train" else settings.n_test
        seed = 2 * settings.data_seed + (name == "test")
        bits = torch.randint(
            2, (count, settings.seq_len), generator=torch.Generator().manual_seed(seed)
        )
        return Split(bits, bits.sum(1) % 2, torch.full((count,), settings.seq_len))
'''

MODEL = '''"""The mean of the tokens' vectors."""
from typing import Literal
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from keelback import register_model

@register_model
class BagConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["bag"] = "bag"
    vocab_size: int = Field(gt=0)
    n_classes: int = Field(default=2, ge=2)
    d_model: int = Field(default=4, gt=0)

    def build(self, generator=None):
        return Bag(self)

class Bag(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.binary = config.n_classes == 2
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.head = nn.Linear(config.d_model, 1 if self.binary else config.n_classes)

    def forward(self, tokens):
        logits = self.head(self.embedding(tokens).mean(1))
        return logits.squeeze(1) if self.binary else logits
'''

EXPERIMENT = '''"""Runs of a kind of their own, and what they say."""
from keelback import register_experiment
from keelback.experiments import Experiment, Settings
from keelback.outcome import Column, Figure, Line, Outcome, Panel, Table
from keelback.sweeps import Run, RunResult

class SquareRun(Run):
    kind = "square"
    number: int

    @classmethod
    def execute(cls, runs, progress):
        for run in runs:
            yield run, RunResult({"square": run.number**2})

class SquaresSettings(Settings):
    count: int = 3

@register_experiment
class Squares(Experiment[SquaresSettings]):
    name = "squares"
    summary = "how large are squares?"
    settings_type = SquaresSettings

    def runs(self, settings):
        return [SquareRun(number=n) for n in range(settings.count)]

    def outcome(self, settings, results):
        rows = [{"n": run.fields["number"], "square": run.summary["square"]} for run in results]
        columns = [Column("n", "n"), Column("square", "square")]
        line = Line(x=[row["n"] for row in rows], y=[row["square"] for row in rows])
        return Outcome(
            experiment=f"squares-{settings.label}",
            title="Squares",
            summary="Squares.",
            figures=[Figure("squares", "Squares", [Panel("n", "square", lines=[line])])],
            tables=[Table("squares", "Squares", columns, rows)],
            numbers={"rows": rows},
        )
'''

ADAPTER = '''"""Leaky sums as a layer of a model, and how audits read them."""
from typing import Literal
import torch
import torch.nn.functional as F
from torch import nn
from keelback import register_adapter, register_model
from keelback.audit.adapters import Adapter, SelectiveRecurrence
from keelback.models import SequenceClassifierConfig, SequenceMixer
from keelback.scan import selective_scan

class Leaky(SequenceMixer):
    def __init__(self, d_model, generator):
        super().__init__()
        self.d_output = d_model
        self.log_rate = nn.Parameter(torch.randn(d_model, generator=generator))
        self.to_step = nn.Linear(d_model, d_model)

    def forward(self, u):
        ones = u.new_ones(*u.shape[:2], 1, 1)
        A = -self.log_rate.exp().unsqueeze(1)
        return selective_scan(u, F.softplus(self.to_step(u)), A, ones, ones)

@register_model
class LeakyConfig(SequenceClassifierConfig):
    kind: Literal["leaky"] = "leaky"

    def mixer(self, generator=None):
        return Leaky(self.d_model, generator)

@register_adapter
class LeakyAdapter(Adapter):
    kind = "leaky"
    watched = ("to_step",)

    def matches(self, module):
        return hasattr(module, "log_rate")

    def state_matrix(self, module):
        return -module.log_rate.detach().exp().unsqueeze(1)

    def read(self, module, call):
        u = call.hidden_states
        ones = u.new_ones(*u.shape[:2], 1, 1)
        delta = F.softplus(call.seen["to_step"].output)
        return SelectiveRecurrence(u, delta, self.state_matrix(module), ones, ones)
'''
