"""Training recurrent nets: the loop, what it reads, and the runs of the command line.

The loop, for data of one's own, is `Trainer`; `PaddedBatches` and `Streams` read sequences and symbols,
`SequenceModel`, `CharModel` and `FeedForward` are models, `evaluate` and `estimate_statistics` measure, and
`fastnorm.schedules` has learning rates. `start`, `resume`, `fit` and `load_model` keep a run in a folder.
"""

from . import schedules
from .batches import Batch, PaddedBatches, Streams, evaluation_streams
from .charmodel import CharModel
from .evaluation import Evaluation, estimate_statistics, evaluate
from .jobs import fit, load_model, resume, start
from .models import FeedForward, SequenceModel
from .trainer import Diverged, Progress, Trainer, limited_threads

__all__ = [
    "Batch",
    "CharModel",
    "Diverged",
    "Evaluation",
    "FeedForward",
    "PaddedBatches",
    "Progress",
    "SequenceModel",
    "Streams",
    "Trainer",
    "estimate_statistics",
    "evaluate",
    "evaluation_streams",
    "fit",
    "limited_threads",
    "load_model",
    "resume",
    "schedules",
    "start",
]
