"""Audio LLMs through the whole path: train, save, load in plain PEFT and transformers, merge, mix, decode, score."""
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from test_models_qwen import FAMILIES, items_of
from tiny import tiny_tones

import speechmerge
from speechmerge.bank import AdapterBank, Coefficients
from speechmerge.cli import main
from speechmerge.data.directory import DataDir
from speechmerge.decode import hypotheses
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_json
from speechmerge.models import load_model
from speechmerge.tasks import get_task
from speechmerge.train.lora import prepare
from speechmerge.train.options import TrainOptions
from speechmerge.train.run import train

STEPS = {"rank": 16, "batch_size": 6, "learning_rate": 1e-2, "max_steps": 60, "eval_steps": 60, "warmup": 0.1}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def base(family, tmp_path_factory):
    return FAMILIES[family][0](tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def plain_class(family):
    return FAMILIES[family][1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {task: DataDir.read(tiny_tones(folder / task / "test", task=task, n=6, seed=seed)) for seed, task in
            enumerate(("kws", "intent"))}


def run(base, data, folder, task="kws", dev=True, **options):
    model = load_model(base, device="cpu", **options.pop("loading", {}))
    output = folder / task
    record = train(model, get_task(task), data[task], data[task] if dev else None, output,
                   TrainOptions(**{**STEPS, **options}), exp_dir=folder)
    return record, output


@pytest.fixture(scope="module")
def adapters(base, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp")
    return {task: run(base, data, folder, task) for task in ("kws", "intent")}


@pytest.fixture(scope="module")
def model(base):
    return load_model(base, device="cpu")


def lesson(model, data, task="kws"):
    """A training batch, and what of it the plain network takes."""
    chosen = get_task(task)
    chosen.adapt(model)
    batch = model.collate(items_of(model, chosen.examples(data[task])), chosen, training=True)
    return batch, {name: value for name, value in batch.items() if name != "labels"}


def full_context(model, inputs):
    """Features padded to what transformers' own encoder insists on; what is masked is not heard."""
    missing = model.mel.full - inputs["input_features"].shape[-1]
    padded = {name: torch.nn.functional.pad(inputs[name], (0, missing)) for name in ("input_features", "feature_attention_mask")}
    return {**inputs, **padded}


@torch.no_grad()
def logits(network, inputs):
    return network(**inputs).logits[inputs["attention_mask"].bool()]


def test_overfits_and_decodes_what_it_learned(model, data, adapters):
    for task, (record, folder) in adapters.items():
        assert record["dev"]["accuracy"] == 1.0 and record["base"]["fingerprint"] == model.fingerprint()
        chosen = get_task(task)
        chosen.adapt(model)
        examples = chosen.examples(data[task])
        with model.adapter(folder):
            found = [h for batch in hypotheses(model, chosen, examples, chosen.labels(data[task])) for h in batch]
        assert {h.id: h.text for h in found} == {h.id: h.label for h in found} == {e.id: e.target for e in examples}


def test_plain_peft_loads_the_adapter(base, model, plain_class, data, adapters):
    _, folder = adapters["kws"]
    _, inputs = lesson(model, data)
    plain = PeftModel.from_pretrained(plain_class.from_pretrained(base), folder).eval()
    before = logits(model.core, inputs)
    with model.adapter(folder):
        ours = logits(model.core, inputs)
    assert torch.allclose(ours, logits(plain, full_context(model, inputs)), atol=1e-3)
    assert not torch.allclose(ours, before, atol=0.1) and torch.equal(logits(model.core, inputs), before)
    names = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)


def test_merged_and_mixed_weights_agree(base, model, data, adapters, tmp_path):
    folders = [folder for _, folder in adapters.values()]
    _, inputs = lesson(model, data)
    merged = 0.6 * speechmerge.merge([folders[0]]) + 0.3 * speechmerge.merge([folders[1]])
    merged.save(tmp_path / "merged")
    before = logits(model.core, inputs)
    with model.adapter(tmp_path / "merged"):
        expected = logits(model.core, inputs)
    bank = AdapterBank(model.core, folders, base=model.path)
    with bank.using(Coefficients.per_task([0.6, 0.3])):
        assert torch.allclose(logits(model.core, inputs), expected, atol=1e-3)
    rows = [[1.0, 0.0] if row % 2 else [0.0, 1.0] for row in range(len(inputs["input_ids"]))]
    mask = inputs["attention_mask"].bool()
    alone = []
    for folder in folders:
        with model.adapter(folder), torch.no_grad():
            alone.append(model.core(**inputs).logits)
    with bank.using(Coefficients.per_utterance(rows)), torch.no_grad():
        mixed = model.core(**inputs).logits
    for row, (first, _) in enumerate(rows):
        assert torch.allclose(mixed[row][mask[row]], alone[0 if first else 1][row][mask[row]], atol=1e-3)
    bank.remove()
    assert torch.equal(logits(model.core, inputs), before)


def test_an_adapter_beside_quantized_weights_is_the_merged_one(base, data, adapters, tmp_path):
    """The way that 4-bit bases go, taken here with plain weights: bitsandbytes is no part of the tests."""
    _, folder = adapters["kws"]
    model = load_model(base, device="cpu")
    _, inputs = lesson(model, data)
    before = logits(model.core, inputs)
    with model.adapter(folder):
        expected = logits(model.core, inputs)
    names = [name for name, _ in model.core.named_parameters()]
    model.quantization = "4bit"
    with model.adapter(folder):
        assert torch.allclose(logits(model.core, inputs), expected, atol=1e-4)
    assert torch.equal(logits(model.core, inputs), before) and [name for name, _ in model.core.named_parameters()] == names
    with pytest.raises(UsageError, match="decode without --quantization"), model.adapter(base):
        pass
    with pytest.raises(UsageError, match="a base of 4bit weights cannot learn"):
        model.unfreeze()


def test_full_tuning_leaves_a_model_that_transformers_loads(base, model, plain_class, data, tmp_path):
    record, folder = run(base, data, tmp_path, tuning="full", learning_rate=3e-3)
    assert record["dev"]["accuracy"] == 1.0 and not (folder / "adapter_model.safetensors").exists()
    tuned, found = plain_class.from_pretrained(folder, output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    start, changed = dict(plain_class.from_pretrained(base).named_parameters()), set()
    for name, value in tuned.named_parameters():
        if not torch.equal(value, start[name]):
            changed.add(name)
    assert changed and all(name.startswith(("model.language_model.", "lm_head")) for name in changed)
    for file in base.iterdir():  # tokenizer, template, features and generation settings of the base, byte for byte
        if file.name not in ("config.json", "model.safetensors"):
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name
    _, inputs = lesson(model, data)
    with model.adapter(folder):
        ours = logits(model.core, inputs)
    assert torch.allclose(ours, logits(tuned.eval(), full_context(model, inputs)), atol=1e-3)
    assert type(load_model(folder, device="cpu")) is type(model)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_gradient_checkpointing_changes_memory_alone(base, data, tuning):
    gradients = []
    for checkpointing in (False, True):
        model = load_model(base, device="cpu")
        prepare(model, TrainOptions(tuning=tuning, rank=4, gradient_checkpointing=checkpointing))
        batch, inputs = lesson(model, data)
        for name, value in model.module.named_parameters():
            if "lora_B" in name:  # as they start, they are zero and hide the gradients of A
                value.data.fill_(0.01)
        model.module.train()
        model.loss(model.module(**inputs), batch["labels"]).backward()
        gradients.append({name: value.grad for name, value in model.module.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 14
    assert all("audio_tower" not in name and value.abs().max() > 0 for name, value in gradients[1].items()
               if "bias" not in name and "embed_tokens" not in name)
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_steps_that_are_cut_into_pieces_are_the_same(base, data, tmp_path):
    ends = []
    for pieces in (1, 3):
        _, folder = run(base, data, tmp_path / str(pieces), dev=False, max_steps=3, eval_steps=0, batch_size=6 // pieces,
                        accumulation=pieces, learning_rate=1e-3)
        ends.append(load_file(folder / "adapter_model.safetensors"))
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=2e-4), name


@pytest.mark.slow
def test_bf16_with_checkpointing_learns(base, data, tmp_path):
    record, folder = run(base, data, tmp_path, precision="bf16", gradient_checkpointing=True, loading={"dtype": "bfloat16"},
                         targets=("attention",))
    assert record["dev"]["accuracy"] == 1.0
    assert all(value.dtype == torch.float32 for value in load_file(folder / "adapter_model.safetensors").values())


def test_adapters_of_the_encoder(base, data, tmp_path):
    record, folder = run(base, data, tmp_path, targets=("encoder",), max_steps=2, eval_steps=2)
    assert all(".audio_tower." in name for name in load_file(folder / "adapter_model.safetensors"))
    assert record["dev"]["n"] == 6
    with load_model(base, device="cpu").adapter(folder):
        pass


def test_an_adapter_of_another_base_is_refused(family, data, adapters, tmp_path):
    other = load_model(FAMILIES[family][0](tmp_path / "other", seed=5), device="cpu")
    with pytest.raises(SpeechMergeError, match="belongs to the base"), other.adapter(adapters["kws"][1]):
        pass


def test_the_verbs(base, data, tmp_path, capsys):
    folder, words = tmp_path / "exp", ["--model", base, "--device", "cpu", "--exp-dir", tmp_path / "exp"]
    steps = ["--rank", 8, "--max-steps", 40, "--batch-size", 6, "--learning-rate", 1e-2, "--report-to"]

    def verb(name, *rest):
        assert main([name, *map(str, rest)]) == 0, capsys.readouterr().err

    for task in ("kws", "intent"):
        verb("train", "--task", task, "--data", data[task].path, "--dev", data[task].path, *words, *steps, "--eval-steps", 40)
    verb("merge", "--adapters", folder / "kws/kws", folder / "intent/intent", "--method", "ties", "--output-dir", folder / "merged/m")
    root = data["kws"].path.parent.parent
    verb("decode", "--tasks", "kws", "--data", root, "--systems", "base", "kws", "intent", folder / "merged/m", *words)
    verb("score", "--exp-dir", folder, "--data", root)
    found = {path.parent.parent.name: read_json(path)["generation"]["value"] for path in folder.rglob("score.json")}
    assert len(found) == 4 and found["kws"] == 1.0 > found["base"]
    assert (folder / "scores_test.json").is_file()


def test_trials_are_two_recordings_in_one_conversation(base, tmp_path):
    data = DataDir.read(tiny_tones(tmp_path / "data", task="speaker_ver", n=6))
    model, task = load_model(base, device="cpu"), get_task("speaker_ver")
    train(model, task, data, data, tmp_path / "exp/v", TrainOptions(**{**STEPS, "max_steps": 2, "eval_steps": 2, "time_masks": 1,
                                                                   "frequency_masks": 1, "speeds": (0.9, 1.1)}), exp_dir=tmp_path / "exp")
    other = load_model(base, device="cpu")
    examples = task.examples(data)
    with other.adapter(tmp_path / "exp/v"):
        found = [h for batch in hypotheses(other, task, examples, task.labels(data)) for h in batch]
    assert {h.id for h in found} == {e.id for e in examples} and all(h.score is not None for h in found)
    told = other.tokenizer.decode(other.prefix_of(examples[0], task, (20, 40)))
    assert told.count("<|audio_bos|>") == 2 and told.count("<|AUDIO|>") == 5 + 10


@pytest.mark.parametrize("inputs", ["text", "audio+text"])
def test_transcripts_in_the_prompt(base, data, tmp_path, inputs):
    model, task = load_model(base, device="cpu"), get_task("intent").configure(inputs=inputs)
    record = train(model, task, data["intent"], data["intent"], tmp_path / "a", TrainOptions(**STEPS), exp_dir=tmp_path)
    assert record["dev"]["accuracy"] == 1.0 and record["settings"]["inputs"] == inputs
    examples = task.examples(data["intent"])
    told = model.told(examples[0], task)
    assert data["intent"].utterances[examples[0].id].text in told
    assert len(examples[0].audio) == (inputs != "text")


def test_texts_and_recordings_in_one_batch(model, data):
    """A mixture of inputs: the audio of each row stands in its own places."""
    heard = get_task("intent").configure(inputs="audio")
    read = get_task("intent").configure(inputs="text")
    for task in (heard, read):
        task.adapt(model)
    audio, text = heard.examples(data["intent"])[:2], read.examples(data["intent"])[:2]
    labels = heard.labels(data["intent"])
    mixed = [text[0], audio[0], text[1], audio[1]]
    together = model.score_labels(model.collate(items_of(model, mixed), heard), labels)
    for example, row in zip(mixed, together):
        assert torch.allclose(model.score_labels(model.collate(items_of(model, [example]), heard), labels)[0], row, atol=1e-3)
