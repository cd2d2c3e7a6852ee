"""What the model writes while it learns: some utterances decoded every few steps, in train.log and samples.jsonl.

    {"step": 50, "id": "audio-12", "prompt": null, "reference": "{\\"scenario\\":...", "hypothesis": "..."}
"""
import json
import logging
from pathlib import Path

from transformers import TrainerCallback

from speechmerge.decode import Options, hypotheses
from speechmerge.files import write_text
from speechmerge.plain_files import read_json_lines

log = logging.getLogger(__name__)
NAME = "samples.jsonl"
COUNT = 3  # utterances, the first of the dev set; without one of the training set


class Samples(TrainerCallback):
    """Greedy decoding changes neither weights nor random numbers: the training stays the same."""

    def __init__(self, trainer, folder: Path):
        self.trainer, self.path = trainer, Path(folder) / NAME
        self.examples = (trainer.dev or trainer.train_dataset.examples)[:COUNT]

    def on_train_begin(self, args, state, control, **kwargs):
        self.keep(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.trainer.options.sample_steps == 0:
            rows = self.keep(state.global_step - 1) + self.decoded(state.global_step)
            write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return control

    def keep(self, step: int) -> list[dict]:
        """Samples up to this step: those after it are of a run that was killed, or of another one."""
        rows = [row for _, row in read_json_lines(self.path) if row["step"] <= step] if self.path.is_file() and step else []
        if not step:
            self.path.unlink(missing_ok=True)
        return rows

    def decoded(self, step: int) -> list[dict]:
        trainer, rows = self.trainer, []
        training = trainer.model.training
        trainer.model.eval()
        texts = {found.id: found.text for batch in hypotheses(trainer.speech, trainer.task, self.examples, None,
                                                              Options(batch_size=COUNT), trainer.cache) for found in batch}
        trainer.model.train(training)
        for example in self.examples:
            row = {"step": step, "id": example.id, "prompt": example.prompt,
                   "reference": trainer.task.written(example.target), "hypothesis": texts[example.id]}
            log.info("step %d  %s\n    reference:  %s\n    hypothesis: %s", step, example.id, row["reference"],
                     row["hypothesis"])
            rows.append(row)
        return rows
